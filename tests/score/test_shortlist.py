"""What a labeler reads of long texts, and how units score that it did not read."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenprune.document import Document
from tokenprune.models.labeler import Labels
from tokenprune.score.bm25 import BM25
from tokenprune.score.labeling import Labeling
from tokenprune.score.shortlist import Shortlist
from tokenprune.segment.by_kind import ByKind
from tokenprune.tokens import get_counter


class Words:
    """A labeling that says 1 of the characters of a word in capitals, 0 of others; notes what it was given."""

    cache_bytes = 0
    titles = True
    word_vectors = None

    def __init__(self):
        self.passages = []

    def labels(self, query, passages):
        self.passages += passages
        found = []
        for p in passages:
            keep = np.asarray([float(c.isupper()) for c in p.text], dtype=np.float32)
            at = np.arange(len(p.text), dtype=np.int64)
            found.append(Labels(float(keep.sum()), -float(keep.sum()), keep, at, at + 1))
        return found

    def among(self, query, documents, keep, keep_rank):
        self.compared = keep_rank
        return keep

    def score_and_rank(self, query, documents):
        self.passages.append("all")
        return [np.full(len(u), 0.5) for u in documents], np.zeros(len(documents))


class Given:
    """Word vectors that say what they are told of each unit."""

    def __init__(self, *values):
        self.values = list(values)

    def score(self, query, documents):
        flat = iter(self.values)
        return [np.asarray([next(flat) for _ in u.texts], dtype=np.float64) for u in documents]


def skimmed(values, **options):
    words = Words()
    words.word_vectors = Given(*values)
    texts = [
        f"Passage {n} says this and that of its own, {'on and on ' * 8}to its end" for n in range(len(values))
    ]
    units = units_of(*texts)
    made = Shortlist(words, None, **{"least": 0, "share": 0.0, "margin": 0.2} | options)
    scores, rank = made.score_and_rank("q", units)
    return words, units, [float(s[0]) for s in scores], rank


def test_all_that_comes_near_the_best_is_read():
    words, _, scores, rank = skimmed([0.1, 0.65, 0.5, 0.8, 0.59])
    assert [p.text.split()[1] for p in words.passages] == ["1", "3"]
    assert np.isnan(rank).tolist() == [True, False, True, False, True]
    assert scores[1] >= 0 and scores[3] >= 0
    assert -1.5 >= scores[4] > scores[2] > scores[0] == -2.0


def test_a_share_and_a_least_number_of_tokens_are_read_in_any_case():
    values = [0.9, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.0]
    read = [len(skimmed(values, share=s)[0].passages) for s in (0.0, 0.25, 0.5)]
    assert read == [1, 2, 4]
    words, units, _, _ = skimmed(values, least=1)
    each = int(units[0].cost.sum())
    assert len(words.passages) == 1 and len(skimmed(values, least=3 * each)[0].passages) == 3
    assert skimmed(values, least=100 * each)[0].passages == ["all"]


def test_there_is_a_limit_to_what_is_read_and_a_budget_raises_it():
    values = [0.5] * 10
    each = int(skimmed(values)[1][0].cost.sum())
    assert skimmed(values)[0].passages == ["all"]  # nothing can be ruled out
    assert len(skimmed(values, max_tokens=3 * each)[0].passages) == 3
    made = Shortlist(Words(), BM25(), max_tokens=100).within(700)
    assert (made.max_tokens, made.least) == (1400, 1400)
    assert Shortlist(Words(), BM25()).within(700).max_tokens is None


def test_words_are_not_asked_where_nothing_is_to_be_skimmed():
    assert skimmed([0.9, 0.1, 0.0], skim=False)[0].passages == ["all"]


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=12), st.floats(0, 1), st.floats(0, 1))
@settings(max_examples=40)
def test_whatever_comes_near_the_best_is_read(values, margin, share):
    words, units, scores, _ = skimmed(values, margin=margin, share=share)
    if words.passages == ["all"]:
        return
    read = np.asarray([s >= 0 for s in scores])
    assert read[np.asarray(values) >= max(values) - margin].all()
    cost = np.asarray([int(u.cost.sum()) for u in units])
    assert cost[read].sum() >= share * cost.sum()
    assert max(np.asarray(values)[~read], default=-9) <= min(np.asarray(values)[read])


def units_of(*texts, **more):
    return [ByKind().segment(Document(t, kind="text", **more), get_counter()) for t in texts]


FILLER = "nothing is said about it here at all, not a word, and it goes on. "
LONG = FILLER * 30 + "the needle is HERE. " + FILLER * 30


def test_all_that_fits_is_read_whole_and_the_cheap_scorer_is_not_asked():
    words = Words()
    units = units_of("one. two.", "three.")
    scores, _ = Shortlist(words, None).score_and_rank("q", units)
    assert words.passages == ["all"]
    assert [len(s) for s in scores] == [2, 1]


def test_the_best_stretches_are_read_with_their_neighbours():
    words = Words()
    units = units_of(LONG, FILLER * 9)
    scores, rank = Shortlist(words, BM25(), max_tokens=150, stretch_tokens=150).score_and_rank(
        "the needle", units
    )
    read = "".join(p.text for p in words.passages)
    assert "needle is HERE" in read and read.count("nothing is said") > 2
    best = int(np.argmax(scores[0]))
    assert "needle" in units[0].texts[best] and scores[0][best] > 0
    assert rank[0] == 4 and np.isnan(rank[1])
    assert words.compared[0] == -4 and np.isnan(words.compared[1])
    assert (scores[1] <= -1).all()
    _, rank = Shortlist(words, BM25(), max_tokens=300, stretch_tokens=150).score_and_rank("the needle", units)
    assert (rank[0], words.compared[0]) == (4, 0)  # of two stretches, the best by each rank


def test_what_was_not_read_stands_below_in_the_cheap_order():
    words = Words()
    texts = ("apple pear plum. " * 12, "apple pear. " * 12, "plum. " * 12, "fig. " * 12)
    scores = Shortlist(words, BM25(), max_tokens=60, stretch_tokens=60).score(
        "apple pear plum", units_of(*texts)
    )
    means = [float(s.mean()) for s in scores]
    assert means[0] >= 0 > -1 >= means[1] > means[2] > means[3] >= -2


def test_headings_above_a_stretch_stand_for_its_title():
    words = Words()
    text = "# Needles\n\n" + FILLER * 20 + "\n\n# Hay\n\n" + FILLER * 20
    units = units_of(text, title="Top")
    total = sum(int(u.cost.sum()) for u in units)
    Shortlist(words, BM25(), max_tokens=total - 1, stretch_tokens=90).score("q", units)
    titles = [p.title for p in words.passages]
    assert titles[0] == "Top" and titles[1].strip() == "# Needles" and titles[-1].strip() == "# Hay"


def test_a_budget_makes_it_read_two_of_them():
    made = Shortlist(Words(), BM25(), max_tokens=100)
    assert made.within(500).max_tokens == 1000 and made.within(20).max_tokens == 100


@given(st.lists(st.integers(0, 40), max_size=5), st.integers(1, 400), st.integers(1, 120))
@settings(max_examples=30)
def test_it_reads_no_more_than_it_may(sizes, most, stretch):
    words = Words()
    units = units_of(*("".join(f"sentence {i} of these. " for i in range(n)) for n in sizes))
    scores, rank = Shortlist(words, BM25(), most, stretch).score_and_rank("sentence 7", units)
    assert [len(s) for s in scores] == [len(u) for u in units] and len(rank) == len(units)
    assert all(np.isfinite(s).all() for s in scores)
    count = get_counter().count
    words.passages = [p for p in words.passages if p != "all"]
    read = sum(count(p.text) for p in words.passages)
    largest = max((int(u.cost.max()) for u in units if len(u)), default=0)
    assert read <= max(most, stretch, largest) + 2 * len(words.passages)


def test_nothing_to_read():
    assert Shortlist(Words(), BM25()).score("q", []) == []
    assert [len(s) for s in Shortlist(Words(), BM25()).score("q", units_of("", ""))] == [0, 0]


def test_a_real_labeling_has_what_it_needs(tiny):
    from tokenprune.models.labeler import Labeler

    labeler = Labeler.load(str(tiny("open-modernbert").folder), device="cpu", dtype="float32")
    units = units_of(LONG)
    scores, rank = Shortlist(Labeling(labeler), BM25(), max_tokens=300).score_and_rank("the needle", units)
    assert (scores[0] > 0).any() and (scores[0] <= -1).any() and np.isfinite(rank[0])
