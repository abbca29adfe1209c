"""Passages longer than the window, and the exactness of offsets."""

from itertools import pairwise
from unicodedata import is_normalized

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenprune.models.labeler import Labeler, Passage
from tokenprune.models.labeler.types import Labels
from tokenprune.models.labeler.windows import OVERLAP, cut, merge
from tokenprune.tokens import sanitize

QUERY = "When was the tower finished?"


@given(
    tokens=st.integers(0, 400),
    breaks=st.lists(st.integers(-2, 410), max_size=40),
    room=st.integers(1, 60),
)
@settings(max_examples=400)
def test_windows_cover_and_fit(tokens, breaks, room):
    edges = np.unique(np.asarray(breaks, dtype=np.int64))
    windows = cut(tokens, edges, room)
    covered = np.zeros(tokens, dtype=int)
    for start, end in windows:
        assert 0 < end - start <= room
        covered[start:end] += 1
    assert (covered >= 1).all()
    assert windows == sorted(set(windows))
    assert [e for _, e in windows] == sorted({e for _, e in windows}), "a window that adds nothing"
    assert all(b[0] > a[0] for a, b in pairwise(windows))
    overlap = max(int(OVERLAP * room), 0)
    assert all(a[1] - b[0] <= overlap for a, b in pairwise(windows))
    inner = set(edges.tolist())
    for (_, end), (_, following) in pairwise(windows):
        if end not in inner:  # cut inside a stretch: only one that is longer than the window by itself
            before = max([e for e in inner if e < end], default=0)
            behind = min([e for e in inner if e > end], default=tokens)
            assert min(behind, tokens) - max(before, 0) > room
        assert following > end


def test_sentences_are_read_again_where_they_fit():
    assert cut(10, np.array([5]), 10) == [(0, 10)]
    assert cut(0, np.array([]), 10) == []
    # Room 16, overlap 2: the sentence of two tokens at the end of the first window is read again.
    assert cut(28, np.array([14, 16]), 16) == [(0, 16), (14, 28)]
    # The sentence behind it would not fit then.
    assert cut(32, np.array([14, 16]), 16) == [(0, 16), (16, 32)]
    # A stretch longer than the window is cut where the window is full.
    assert cut(40, np.array([4]), 16) == [(0, 16), (14, 30), (28, 40)]


def test_merging():
    keep = [np.array([0.0, 0.2, 0.4], np.float32), np.array([0.8, 1.0], np.float32)]
    rank, merged = merge(4, [(0, 3), (2, 4)], keep, np.array([[-1.0, 3.0], [0.5, 2.0]]))
    assert rank.tolist() == [0.5, 3.0]
    np.testing.assert_allclose(merged, [0.0, 0.2, 0.6, 1.0])
    rank, merged = merge(0, [], [], np.empty((0, 2)))
    assert np.isnan(rank).tolist() == [True, True]
    assert merged.shape == (0,)


def test_means_of_stretches():
    keep = np.array([0.1, 0.3, 0.8, 0.6], np.float32)
    # The third token begins with the space that ends the first sentence.
    labels = Labels(0.0, 0.0, keep, np.array([0, 2, 4, 8]), np.array([2, 4, 8, 10]))
    np.testing.assert_allclose(labels.means(np.array([0, 5, 10, 12])), [0.2, 0.7, 0.0], atol=1e-7)
    nothing = Labels(np.nan, np.nan, keep[:0], np.array([], dtype=np.int64), np.array([], dtype=np.int64))
    assert nothing.means(np.array([0, 3])).tolist() == [0.0]
    assert nothing.means(np.array([0])).tolist() == []


@pytest.mark.parametrize("family", ["open-modernbert", "xprovence"])
def test_a_long_passage_is_its_windows(family, tiny):
    """Windows read one by one as passages of their own, merged by hand."""
    labeler = Labeler.load(str(tiny(family).folder), device="cpu", dtype="float32")
    sentences = [
        ("In Paris. ", f"It was finished in {n} and the needle lies in it. ")[n % 2] for n in range(40)
    ]
    text = "".join(sentences)
    breaks = tuple(np.cumsum([len(s) for s in sentences])[:-1].tolist())
    labels = labeler.label(QUERY, [Passage(text, breaks=breaks)])[0]
    tokens = labeler.text.read([text])[0]
    room = labeler.max_length - len(labeler.frame) - len(labeler.text.read([QUERY])[0].ids)
    assert len(tokens.ids) > 2 * room
    first_of = np.searchsorted(tokens.end - 1, np.asarray(breaks))
    windows = cut(len(tokens.ids), first_of, room)
    assert all(end == len(tokens.ids) or end in first_of for _, end in windows)
    total, count, ranks = np.zeros(len(tokens.ids)), np.zeros(len(tokens.ids)), []
    for start, end in windows:
        batch = labeler._batch(
            labeler.text.read([QUERY])[0].ids,
            [(tokens.ids[:0], tokens.ids[start:end], np.zeros(end - start, dtype=np.int64))],
        )
        assert batch.ids.shape[1] <= labeler.max_length
        rank, keep_rank, keep = labeler.network.run(batch)
        assert np.array_equal(rank, keep_rank)
        begin, behind = batch.passage[0].tolist()
        total[start:end] += keep[0, begin:behind]
        count[start:end] += 1
        ranks.append(float(rank[0]))
    np.testing.assert_allclose(labels.keep, total / count, atol=1e-5)
    assert labels.rank == pytest.approx(max(ranks), abs=1e-5)
    assert count.max() > 1


def test_sentence_of_ten_thousand_characters(tiny):
    labeler = Labeler.load(str(tiny("open-modernbert").folder), device="cpu", dtype="float32")
    for text in ("the tower is a lattice " * 440, "x" * 10_000):
        labels = labeler.label(QUERY, [Passage(text[:10_000])])[0]
        assert np.isfinite(labels.keep).all()
        assert (labels.start[0], labels.end[-1]) == (0, len(text[:10_000]))
        assert np.isfinite(labels.rank)


def test_a_long_question_and_a_long_title_leave_room(tiny):
    labeler = Labeler.load(str(tiny("open-modernbert").folder), device="cpu", dtype="float32")
    seen = []
    run = labeler.network.run

    class Spy:
        def run(self, batch):
            seen.append(batch.ids.shape[1])
            return run(batch)

    from dataclasses import replace

    spied = replace(labeler, network=Spy())
    labels = spied.label("when was it finished " * 200, [Passage("The tower. " * 100, title="Tower " * 300)])[
        0
    ]
    assert max(seen) <= labeler.max_length
    assert len(labels.keep) == len(labeler.text.read(["The tower. " * 100])[0].ids)
    assert len(spied.label("", [Passage("The tower.")])[0].keep)


@pytest.mark.parametrize("family", ["provence", "xprovence", "open-modernbert", "open-bert"])
@given(data=st.data())
@settings(max_examples=15)
def test_offsets_are_exact(family, data, tiny, strategies):
    """Offsets of the whole text, ascending, and of each token the piece of text it stands for."""
    labeler = Labeler.load(str(tiny(family).folder), device="cpu", dtype="float32")
    text = data.draw(strategies.text)
    labels = labeler.label(QUERY, [Passage(text)])[0]
    assert len(labels.keep) == len(labels.start) == len(labels.end)
    assert (labels.start <= labels.end).all()
    assert (labels.end <= len(text)).all()
    assert ((labels.keep >= 0) & (labels.keep <= 1)).all()
    assert (np.diff(np.maximum.accumulate(labels.start)) >= 0).all()
    covered = np.zeros(len(text) + 1, dtype=bool)
    for a, b in zip(labels.start.tolist(), labels.end.tolist(), strict=True):
        covered[a:b] = True
    # A byte-level tokenizer loses nothing but the marks that its normaliser joins to letters.
    if family == "open-modernbert" and is_normalized("NFC", sanitize(text)):
        assert covered[: len(text)].all()
    assert np.isnan(labels.rank) == (len(labels.keep) == 0)


def test_odd_passages(tiny):
    labeler = Labeler.load(str(tiny("provence").folder), device="cpu", dtype="float32")
    empty, word, surrogate = labeler.label(QUERY, [Passage(""), Passage("Paris"), Passage("a\ud800b\x00c")])
    assert np.isnan(empty.rank)
    assert empty.keep.shape == (0,)
    assert len(word.keep) >= 1
    assert surrogate.end[-1] == 5
    assert labeler.label(QUERY, []) == []


def test_threads(tiny):
    """Calls from several threads give what they give alone."""
    from concurrent.futures import ThreadPoolExecutor

    labeler = Labeler.load(str(tiny("open-modernbert").folder), device="cpu", dtype="float32")
    texts = [[f"The tower was finished in {n}. " * (1 + n % 5) for n in range(k, k + 4)] for k in range(6)]
    alone = [[x.keep for x in labeler.label(QUERY, [Passage(t) for t in group])] for group in texts]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda g: labeler.label(QUERY, [Passage(t) for t in g]), texts))
    for group, expected in zip(found, alone, strict=True):
        for labels, keep in zip(group, expected, strict=True):
            np.testing.assert_allclose(labels.keep, keep, atol=1e-6)
