"""BM25 against a plain loop, its ranking, its terms."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenprune.document import Document
from tokenprune.score import scorer_texts
from tokenprune.score.bm25 import BM25, STOPWORDS, stem, terms
from tokenprune.segment.html_blocks import HtmlBlocks
from tokenprune.segment.sentences import Sentences
from tokenprune.tokens import get_counter


def sentences(text, title=None):
    return Sentences().segment(Document(text, kind="text", title=title), get_counter())


def reference(query, rows, k1=1.2, b=0.75, weight=1.0):
    """Robertson and Zaragoza 2009, Lucene's IDF; ``rows`` are (terms of the text, terms of the headings)."""
    asked = set(terms(query))
    wanted = asked - {stem(w) for w in STOPWORDS} or asked
    lengths = [len(own) for own, _ in rows]
    average = max(1.0, sum(lengths) / len(lengths))
    scores = []
    for (own, above), length in zip(rows, lengths, strict=True):
        total = 0.0
        for term in wanted:
            holding = sum(1 for o, a in rows if term in o or term in a)
            idf = math.log(1 + (len(rows) - holding + 0.5) / (holding + 0.5))
            tf = own.count(term) + weight * min(2, above.count(term))
            total += idf * tf * (k1 + 1) / (tf + k1 * (1 - b + b * length / average))
        scores.append(total)
    return scores


VOCABULARY = ["needle", "hay", "running", "runs", "the", "of", "日本語の文", "v1.2", "don't", "x"]


@given(
    st.lists(st.lists(st.sampled_from(VOCABULARY), min_size=1, max_size=9), min_size=1, max_size=8),
    st.lists(st.sampled_from(VOCABULARY), min_size=1, max_size=4),
    st.sampled_from([(1.2, 0.75), (0.9, 0.4), (2.0, 0.0), (1.2, 1.0)]),
)
def test_equals_a_plain_loop(rows, query, parameters):
    k1, b = parameters
    documents = [sentences(" ".join(row)) for row in rows]
    texts = [t for u in documents for t in u.texts]
    got = np.concatenate(BM25(k1=k1, b=b).score(" ".join(query), documents))
    want = reference(" ".join(query), [(terms(t), []) for t in texts], k1, b)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-9)


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
def test_headings_count(weight):
    page = (
        "<h1>Needle work</h1><p>first hay</p><h2>Needle needle "
        "needle</h2><p>second needle</p><p>third hay hay</p>"
    )
    units = HtmlBlocks(6).segment(Document(page, kind="html"), get_counter())
    assert units.context[-1] == "Needle work Needle needle needle"
    rows = [(terms(t), terms(c)) for t, c in zip(units.texts, units.context, strict=True)]
    if weight == 0:
        rows = [(own, []) for own, _ in rows]
    got = BM25(context_weight=weight).score("needle hay", [units])[0]
    if weight:
        np.testing.assert_allclose(got, reference("needle hay", rows, weight=weight), rtol=0, atol=1e-9)
    assert (got[1] > BM25(context_weight=0).score("needle hay", [units])[0][1]) == (weight > 0)


def test_title_is_read_where_there_is_no_heading():
    plain, titled = sentences("Some hay. More hay."), sentences("Some hay. More hay.", title="Needle")
    assert scorer_texts(titled) == ["Needle\nSome hay. ", "Needle\nMore hay."]
    assert scorer_texts(plain) == plain.texts
    scores = BM25().score("needle", [plain, titled])
    assert scores[0].tolist() == [0, 0]
    assert scores[1].min() > 0


def test_ranking_on_a_small_corpus():
    texts = [
        "Cats sleep most of the day. ",
        "The cache is cleared with cache_clear. ",
        "To empty the cache of a function, call its cache clear method. ",
        "A long sentence that mentions a cache only once "
        "among many other words about files, mail and clocks. ",
        "Dogs bark.",
    ]
    scores = BM25().score("How do I clear the cache?", [sentences("".join(texts))])[0]
    assert len(scores) == 5
    assert np.argsort(-scores, kind="stable").tolist()[:3] in ([2, 1, 3], [1, 2, 3])
    assert scores[0] == scores[4] == 0
    assert (scores >= 0).all()


def test_rare_words_count_more():
    units = sentences("Common rare. " + "Common word. " * 8 + "Common thing.")
    scores = BM25().score("common rare", [units])[0]
    assert scores.argmax() == 0
    only_rare = BM25().score("rare", [units])[0][0]
    only_common = BM25().score("common", [units])[0][0]
    assert only_rare > 5 * only_common > 0


def test_long_units_are_held_back():
    units = sentences(
        "Needle here. A needle stands in this sentence too, among so many other words that it counts less."
    )
    scores = BM25().score("needle", [units])[0]
    assert scores[0] > scores[1] > 0
    flat = BM25(b=0).score("needle", [units])[0]
    assert flat[0] == flat[1]


@pytest.mark.parametrize("query", ["", "???", " \n", "absent"])
def test_nothing_to_find(query):
    scores = BM25().score(query, [sentences("One here. Two here."), sentences("Three.")])
    assert [s.tolist() for s in scores] == [[0, 0], [0]]


def test_question_of_stopwords_only_still_counts_them():
    scores = BM25().score("who is it", [sentences("Nobody knows. Who is it?")])[0]
    assert scores[1] > scores[0] == 0


def test_no_units():
    assert BM25().score("needle", []) == []
    assert [s.tolist() for s in BM25().score("needle", [sentences(" ")])] in ([[0]], [[]])


def test_all_documents_are_one_collection():
    one, two = sentences("Needle."), sentences("Hay. Hay too. More hay.")
    together = BM25().score("needle", [one, two])[0][0]
    alone = BM25().score("needle", [one])[0][0]
    assert together > alone  # rarer among four units than among one


def test_shapes_and_types(samples):
    units = [
        sentences(samples.prose(1)),
        HtmlBlocks(16).segment(Document(samples.page(1), kind="html"), get_counter()),
    ]
    scores = BM25().score("open a file", units)
    assert [s.shape for s in scores] == [(len(u),) for u in units]
    assert all(s.dtype == np.float64 and np.isfinite(s).all() for s in scores)


@pytest.mark.parametrize(
    ("words"),
    [
        ("prune", "prunes", "pruned", "pruning", "pruner"),
        ("open", "opens", "opened", "opening"),
        ("token", "tokens"),
        ("stop", "stopped", "stopping"),
        ("cache", "caches", "cached", "caching"),
        ("library", "libraries"),
        ("city", "cities"),
        ("body", "bodies"),
        ("movie", "movies"),
        ("study", "studies", "studied", "studying"),
        ("happy", "happily"),
    ],
)
def test_stem_joins_forms(words):
    assert len({stem(w) for w in words}) == 1


@pytest.mark.parametrize(
    "word", ["file", "is", "gas", "bus", "2024s", "größer", "日本語", "x" * 3, "b12345s"]
)
def test_stem_leaves_alone(word):
    if word in ("file",):
        assert stem(word) == stem("files")
    else:
        assert stem(word) == word


@pytest.mark.parametrize(
    ("one", "two"), [("open", "operation"), ("cache", "cash"), ("sort", "sore"), ("time", "timid")]
)
def test_stem_keeps_apart(one, two):
    assert stem(one) != stem(two)


@given(st.text(min_size=1))
def test_stem_shortens_only(word):
    assert word.startswith(stem(word)) or (word.startswith(stem(word)[:-1]) and stem(word)[-1] == "i")
    assert len(word) >= len(stem(word)) > 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("The Needle!", ["the", "needl"]),
        ("don't stop", ["don't", "stop"]),
        ("3.14 v1", ["3", "14", "v1"]),
        ("cache_clear()", [stem("cache"), stem("clear")]),
        ("日本語", ["日本", "本語"]),
        ("日", ["日"]),
        ("한국어", ["한국", "국어"]),
        ("ไทย", ["ไท", "ทย"]),
        ("abc日本def", ["abc", "日本", "def"]),
        ("ÉCOLE", ["école"]),
        ("Germany's, Napoleon\u2019s or James'", ["germani", "napoleon", "or", "jame"]),
        ("L'eau, d\u2019où", ["eau", "où"]),
        ("we'll o'clock aujourd'hui", ["we'll", "clock", "aujourd'hui"]),
        ("भारत की", ["भारत", "की"]),
        ("Zu\u0308rich", ["zürich"]),
        ("မြန်မာ", ["မြ", "ြန", "န်", "်မ", "မာ"]),
        ("— …", []),
    ],
)
def test_terms(text, expected):
    assert terms(text) == expected


@pytest.mark.parametrize(
    ("query", "right"),
    [("東京の人口は？", 1), ("大阪の名物", 2), ("京都", 0)],
)
def test_chinese_and_japanese_match(query, right):
    units = sentences("京都には寺が多い。東京の人口は約千四百万人である。大阪の名物はたこ焼きだ。")
    assert len(units) == 3
    assert int(BM25().score(query, [units])[0].argmax()) == right
