"""Sentences scored by a labeler, against labels of the whole passage taken apart by hand."""

from dataclasses import replace

import numpy as np
import pytest

from tokenprune.document import Document
from tokenprune.models.labeler import Labeler, Passage
from tokenprune.score import ranks, score_and_rank
from tokenprune.score.bm25 import BM25
from tokenprune.score.cascade import Cascade
from tokenprune.score.labeling import Labeling
from tokenprune.segment.by_kind import ByKind
from tokenprune.select.keep_probability import KeepProbability
from tokenprune.tokens import get_counter

QUERY = "When was the tower finished?"
TEXT = (
    "The Eiffel Tower is in Paris. It was finished in 1889.\n\n埃菲尔铁塔位于巴黎。它于1889年完工。 One word"
)


@pytest.fixture(scope="module")
def labeler(tiny):
    return Labeler.load(str(tiny("open-modernbert").folder), device="cpu", dtype="float32")


def units_of(*documents):
    return [ByKind().segment(d, get_counter()) for d in documents]


def test_mean_over_the_tokens_of_a_sentence(labeler):
    (units,) = units_of(Document(TEXT))
    scores, rank = Labeling(labeler).score_and_rank(QUERY, [units])
    labels = labeler.label(QUERY, [Passage(TEXT)])[0]  # one window: breaks do not matter
    at = 0
    assert len(units) == 5
    for text, score in zip(units.texts, scores[0].tolist(), strict=True):
        inside = [
            float(p)
            for p, e in zip(labels.keep, labels.end.tolist(), strict=True)
            if at < e <= at + len(text)
        ]
        assert score == pytest.approx(np.mean(inside), abs=1e-6)
        at += len(text)
    assert rank[0] == pytest.approx(labels.rank, abs=1e-6)
    assert scores[0].dtype == rank.dtype == np.float64


def test_a_sentence_is_read_in_its_context(labeler):
    first, second = units_of(
        Document("It was finished in 1889."), Document("Paris. It was finished in 1889.")
    )
    alone, among = Labeling(labeler).score(QUERY, [first, second])
    assert alone[0] != pytest.approx(among[1], abs=1e-4)


def test_titles(labeler):
    (units,) = units_of(Document("It was finished in 1889.", title="The tower"))
    with_title = Labeling(labeler).score(QUERY, [units])[0]
    without = Labeling(labeler, titles=False).score(QUERY, [units])[0]
    assert with_title[0] != pytest.approx(without[0], abs=1e-4)
    expected = labeler.label(QUERY, [Passage("It was finished in 1889.", title="The tower")])[0]
    assert with_title[0] == pytest.approx(expected.keep.mean(), abs=1e-6)


def test_blocks_of_a_page_are_read_together(labeler):
    page = "<h1>Tower</h1><p>It was finished in 1889.</p><ul><li>Paris<li>Lattice</ul>"
    (units,) = units_of(Document(page))
    scores = Labeling(labeler).score(QUERY, [units])[0]
    expected = labeler.label(QUERY, [Passage("".join(t + "\n" for t in units.texts))])[0]
    ends = np.cumsum([len(t) + 1 for t in units.texts])
    np.testing.assert_allclose(scores, expected.means(np.array([0, *ends])), atol=1e-6)


def test_long_documents_are_cut_between_sentences(labeler):
    seen = []

    class Spy(Labeler):
        def label(self, query, passages):
            seen.extend(passages)
            return super().label(query, passages)

    spy = Spy(**{f: getattr(labeler, f) for f in labeler.__dataclass_fields__})
    text = "It was finished in 1889. The needle lies in Paris. " * 20
    (units,) = units_of(Document(text))
    scores = Labeling(spy).score(QUERY, [units])[0]
    assert seen[0].breaks == tuple(np.cumsum([len(t) for t in units.texts])[:-1].tolist())
    assert len(scores) == len(units) == 40
    assert np.isfinite(scores).all()


def test_empty_documents(labeler):
    units = units_of(Document(""), Document("Paris"), Document(" \n"))
    scores, rank = Labeling(labeler).score_and_rank(QUERY, units)
    assert [len(s) for s in scores] == [len(u) for u in units]
    assert np.isnan(rank[0])
    assert np.isfinite(rank[1])
    # Nothing to read: no model is loaded.
    assert Labeling("/no/such/model").score(QUERY, units_of(Document(""))) == [pytest.approx([])]


def test_cache_is_used(labeler, tiny):
    calls = []

    class Counting:
        def run(self, batch):
            calls.append(len(batch.ids))
            return labeler.network.run(batch)

    counted = replace(labeler, network=Counting())
    units = units_of(Document("Paris."), Document("Tower."))
    first = Labeling(counted).score(QUERY, units)
    second = Labeling(counted).score(QUERY, units)
    assert sum(calls) == 2
    np.testing.assert_array_equal(np.concatenate(first), np.concatenate(second))
    Labeling(counted, cache_bytes=0).score(QUERY, units)
    assert sum(calls) == 4


def test_behind_a_cascade(labeler):
    """The expensive scorer of a cascade gets some units of each document only."""
    (units,) = units_of(Document(TEXT))
    scores = Cascade(BM25(), Labeling(labeler), max_tokens=20).score(QUERY, [units])
    assert len(scores[0]) == len(units)


def test_ranks_of_scorers(labeler):
    units = units_of(Document("The tower. Paris."), Document(""))
    assert ranks(Labeling(labeler))
    assert not ranks(BM25())
    scores, best = score_and_rank(BM25(), QUERY, units)
    assert best[0] == scores[0].max()
    assert np.isnan(best[1])


def test_threshold_is_the_models_own_unless_given(labeler):
    scores = np.array([0.04, 0.05, 0.06, 0.4])
    cost = np.ones(4, dtype=np.int64)
    assert labeler.default_threshold == 0.05
    assert KeepProbability(labeler).select(scores, cost).tolist() == [False, False, True, True]
    assert KeepProbability(labeler, 0.3).select(scores, cost).tolist() == [False, False, False, True]
    assert KeepProbability("/no/such/model").select(scores[:0], cost[:0]).tolist() == []


def test_words_raise_the_logit_by_their_share_of_the_best(labeler):
    units = units_of(Document(TEXT), Document("When was a tower finished? Nobody knows."))
    plain, _ = Labeling(labeler).score_and_rank(QUERY, units)
    raised, _ = Labeling(replace(labeler, lexical=1.5)).score_and_rank(QUERY, units)
    words = BM25().score(QUERY, units)
    best = max(w.max() for w in words)

    def logit(p):
        return np.log(p / (1 - p))

    for before, after, own in zip(plain, raised, words, strict=True):
        np.testing.assert_allclose(logit(after), logit(before) + 1.5 * own / best, atol=1e-5)
    nothing = Labeling(replace(labeler, lexical=1.5)).score("zzz", units)
    np.testing.assert_array_equal(nothing[0], Labeling(labeler).score("zzz", units)[0])
    alike = np.zeros(len(units))
    for sure in (0.0, 1.0):
        edge = Labeling(replace(labeler, lexical=9.0)).among(
            QUERY, units, [np.full(len(u), sure) for u in units], alike
        )
        assert all((e == sure).all() for e in edge)


def judged(labeler, documents, keep, rank, **more):
    """What `Labeling.among` makes of probabilities and ranks, with nothing but rank having a say."""
    asks = replace(labeler, **({"rank_weight": 0.25, "rank_slack": 2.0} | more))
    keep = [np.asarray(k, dtype=np.float64) for k in keep]
    return Labeling(asks).among(QUERY, documents, keep, np.asarray(rank, dtype=np.float64))


KEEP = ([0.9, 0.2], [0.5, 0.0, 1.0], [], [0.4])
SHAPED = ["One. Two.", "Three. Four. Five.", "", "Six."]


def test_a_rank_far_below_the_best_lowers_the_logit(labeler):
    units = units_of(*map(Document, SHAPED))
    found = judged(labeler, units, KEEP, [1.0, -5.0, np.nan, 6.0])
    for p, q, behind in zip(KEEP, found, (5, 11, 0, 0), strict=True):
        odds = [x / (1 - x) * np.exp(-0.25 * max(0, behind - 2)) if x < 1 else np.inf for x in p]
        assert q.tolist() == pytest.approx([o / (1 + o) if o < np.inf else 1.0 for o in odds])
    assert found[1][0] < 0.1 < KEEP[1][0]  # some drop below the default threshold
    assert found[3].tolist() == [0.4]
    far = judged(labeler, units, KEEP, [1e9, -1e9, np.nan, 0.0])
    assert far[1].tolist() == pytest.approx([0, 0, 1], abs=1e-12)


def test_near_the_best_rank_nothing_changes(labeler):
    units = units_of(*map(Document, SHAPED))
    for rank in ([0.0, -1.9, np.nan, -2.0], [np.nan] * 4):
        for p, q in zip(KEEP, judged(labeler, units, KEEP, rank), strict=True):
            assert q.tolist() == list(p)
    for weight, slack in ((0.0, 0.0), (0.0, 2.0)):
        found = judged(labeler, units, KEEP, [9, -9, np.nan, 0], rank_weight=weight, rank_slack=slack)
        assert [q.tolist() for q in found] == [list(p) for p in KEEP]


def test_one_document_is_judged_by_itself(labeler):
    asks = replace(labeler, rank_weight=2.0, rank_slack=0.0)
    for documents in ([Document(TEXT)], [Document(TEXT), Document(""), Document(TEXT)]):
        units = units_of(*documents)
        plain, with_rank = (Labeling(one).score(QUERY, units) for one in (labeler, asks))
        for before, after in zip(plain, with_rank, strict=True):
            np.testing.assert_allclose(after, before, atol=1e-6)


def test_order_and_copies_make_no_difference(labeler):
    asks = Labeling(replace(labeler, rank_weight=2.0, rank_slack=0.1), cache_bytes=0)
    texts = [TEXT, "Paris has a tower. Nobody knows.", "def read(path): return None", "Cats sleep."]
    scores, rank = asks.score_and_rank(QUERY, units_of(*map(Document, texts)))
    plain = Labeling(labeler).score(QUERY, units_of(*map(Document, texts)))
    assert any(np.abs(a - b).max() > 0.01 for a, b in zip(scores, plain, strict=True)), "it must count here"
    other = [3, 1, 1, 0, 2, 0]
    again, rank_again = asks.score_and_rank(QUERY, units_of(*(Document(texts[i]) for i in other)))
    for place, i in enumerate(other):
        np.testing.assert_allclose(again[place], scores[i], atol=1e-5)
        assert rank_again[place] == pytest.approx(rank[i], abs=1e-4)


def test_what_is_remembered_does_not_depend_on_the_company(labeler):
    """The cache holds what the model says of a passage; company counts anew in every call."""
    asks = Labeling(replace(labeler, rank_weight=2.0, rank_slack=0.0))
    first, second = units_of(Document(TEXT), Document("Cats sleep."))
    alone = asks.score(QUERY, [first])[0], asks.score(QUERY, [second])[0]
    among = asks.score(QUERY, [first, second])
    changed = [not np.allclose(a, b, atol=1e-4) for a, b in zip(alone, among, strict=True)]
    assert sorted(changed) == [False, True]
    np.testing.assert_array_equal(asks.score(QUERY, [first])[0], alone[0])


def test_what_is_kept_goes_by_one_rank_and_the_order_by_the_other(labeler):
    """A network whose two ranks differ: the call says the first, judges by the second."""

    class TwoRanks:
        def run(self, batch):
            said = labeler.network.run(batch)
            return said._replace(rank=-3 * said.keep_rank)

    asks = replace(labeler, rank_weight=2.0, rank_slack=0.0)
    two = Labeling(replace(asks, network=TwoRanks()))
    units = units_of(Document(TEXT), Document("Cats sleep."), Document(""))
    scores, rank = Labeling(asks).score_and_rank(QUERY, units)
    for _ in range(2):  # read, then remembered
        again, other = two.score_and_rank(QUERY, units)
        for a, b in zip(scores, again, strict=True):
            np.testing.assert_array_equal(a, b)
        np.testing.assert_allclose(other[:2], -3 * rank[:2], rtol=1e-6)
        assert np.isnan(other[2])
    assert rank[0] != rank[1]
