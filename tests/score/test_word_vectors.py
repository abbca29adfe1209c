"""Late interaction of word vectors against the formula, written out word by word."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tokenprune.score.word_vectors as module
from tokenprune.document import Document
from tokenprune.models.labeler import Labeler
from tokenprune.score.word_vectors import WordVectors
from tokenprune.segment.by_kind import ByKind
from tokenprune.tokens import get_counter

pytestmark = pytest.mark.models

QUERY = "How tall is the Eiffel tower?"
TEXT = "It is 330 metres high. The tower is painted every seven years. Bananas are yellow."


def units_of(*texts):
    return [ByKind().segment(Document(t, kind="text"), get_counter()) for t in texts]


def by_hand(query, text):
    labeler = Labeler.load("provence-mini")
    net = labeler.network._network
    asked, read = ([int(i) for i in t.ids] for t in labeler.text.read([query, text]))

    def vector(token):
        v = net.norm(net.words.weight[token]).float().numpy().astype(np.float64)
        return v / np.linalg.norm(v)

    rarity = np.array([float(net.idf[t]) for t in asked])
    best = [max(float(vector(a) @ vector(b)) for b in read) for a in asked]
    return float(np.sum(rarity * best) / rarity.sum())


def test_by_formula(monkeypatch):
    units = units_of(TEXT, "One more about towers.")
    got = np.concatenate(WordVectors("provence-mini").score(QUERY, units))
    texts = [t for u in units for t in u.texts]
    assert len(texts) == 4
    np.testing.assert_allclose(
        got, [by_hand(QUERY, t) for t in texts], atol=0.01
    )  # bfloat16 where it is fast
    assert got.argmin() == 2  # bananas
    monkeypatch.setattr(module, "_AT_ONCE", 1)  # one text at a time
    np.testing.assert_allclose(
        np.concatenate(WordVectors("provence-mini").score(QUERY, units)), got, atol=1e-6
    )


def test_headings_and_titles_lend_their_words():
    page = "# The Eiffel tower\n\nIt is 330 metres high.\n\n# Fruit\n\nBananas are yellow."
    units = [
        ByKind().segment(Document(page, kind="text", title="Notes"), get_counter()),
        ByKind().segment(Document("It is 330 metres high.", kind="text", title="Tower"), get_counter()),
    ]
    got = WordVectors("provence-mini", context=True).score(QUERY, units)
    for u, scores in zip(units, got, strict=True):
        read = [f"{c or u.document.title} {t}" for c, t in zip(u.context, u.texts, strict=True)]
        np.testing.assert_allclose(scores, [by_hand(QUERY, t) for t in read], atol=0.01)
    assert "Eiffel" in units[0].context[1] and not units[1].context[0]
    without = WordVectors("provence-mini").score(QUERY, units)
    assert got[1][0] > without[1][0] and (got[0] >= without[0]).all()


@given(st.lists(st.text(max_size=30), max_size=6), st.text(max_size=20), st.integers(1, 64))
@settings(max_examples=40)
def test_any_text_in_any_parts(texts, query, at_once):
    units = units_of(*texts)
    scorer = WordVectors("provence-mini")
    whole = scorer.score(query, units)
    assert [len(s) for s in whole] == [len(u) for u in units]
    assert all(np.isfinite(s).all() and (np.abs(s) <= 1 + 1e-3).all() for s in whole)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_AT_ONCE", at_once)
        for a, b in zip(scorer.score(query, units), whole, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-6)


def test_nothing_to_compare():
    scorer = WordVectors("provence-mini")
    assert scorer.score(QUERY, []) == []
    assert scorer.score(QUERY, units_of(""))[0].tolist() == []
    assert scorer.score("", units_of(TEXT))[0].tolist() == [0.0, 0.0, 0.0]
    unseen = units_of("Tower. \u200b\u200b")  # the second has no tokens of its own
    assert scorer.score(QUERY, unseen)[0][0] > 0


def test_a_labeler_without_word_vectors(tiny):
    labeler = Labeler.load(str(tiny("open-modernbert").folder), device="cpu", dtype="float32")
    with pytest.raises(ValueError, match="has no word vectors"):
        WordVectors(labeler).score(QUERY, units_of(TEXT))
