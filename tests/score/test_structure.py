"""Headings and repetitions, and the cascade of a cheap and an expensive scorer."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenprune.document import Document
from tokenprune.score import within
from tokenprune.score.bm25 import BM25
from tokenprune.score.cascade import Cascade
from tokenprune.score.neighbours import Neighbours
from tokenprune.score.structure import Structured
from tokenprune.segment.html_blocks import HtmlBlocks
from tokenprune.segment.sentences import Sentences
from tokenprune.tokens import get_counter


class Fixed:
    """Gives the scores it was made with, and remembers what it read."""

    def __init__(self, *scores):
        self.scores, self.read = scores, []

    def score(self, query, documents):
        self.read.append([list(u.texts) for u in documents])
        return [np.array(s, dtype=float) for s in self.scores]


class ByText:
    """Gives each text the score it was told for it."""

    def __init__(self, scores):
        self.scores, self.read = scores, []

    def score(self, query, documents):
        self.read += [t for u in documents for t in u.texts]
        return [np.array([self.scores[t] for t in u.texts], dtype=float) for u in documents]


def html(page):
    return HtmlBlocks(4).segment(Document(page, kind="html"), get_counter())


def sentences(text):
    return Sentences().segment(Document(text, kind="text"), get_counter())


def test_headings_and_repetitions_get_the_lowest_score():
    page = (
        "<ul><li>Cats</li><li>Dogs</li></ul><h2>Cats</h2><p>They "
        "sleep.</p><h2>Dogs</h2><p>They bark.</p><p>they bark</p>"
    )
    units = html(page)
    assert units.texts == ["Cats Dogs", "Cats", "They sleep.", "Dogs", "They bark.", "they bark"]
    scores = Structured(Fixed([5, 9, 2, 8, 3, 7])).score("q", [units])[0]
    assert scores.tolist() == [5, 2, 2, 2, 3, 2]


def test_entries_of_a_table_of_contents_get_the_lowest_score():
    page = (
        '<ul><li><a href="#feed">Cats feed</a><li><a class=x HREF = " &#35;sleep"><b>1.</b> Cats sleep</a>'
        "<li>Of <a href=#dogs>dogs</a><li><a href='cats.html#a'>Cats</a><li>• <A\nHREF='#all'>All</A>"
        "<li><a name='#a'>A</a></ul><p>They feed <a href='#note'>[1]</a>"
    )
    units = html(page)
    given = {text: n + 1.0 for n, text in enumerate(units.texts)}
    scores = Structured(ByText(given)).score("q", [units])[0]
    lowest = {text for text, score in zip(units.texts, scores.tolist(), strict=True) if score < given[text]}
    assert lowest == {"1. Cats sleep", "• All"}
    assert scores[0] == 1.0 and units.texts[0] == "Cats feed"
    assert units.entry.tolist() == [text in ("Cats feed", *lowest) for text in units.texts]


@pytest.mark.parametrize(
    "page",
    [
        "<!-- <a href='#old'> --><p>{}</p>",
        "<script>$('<a href=\"#top\">').appendTo(x)</script><p>{}</p>",
        "<a href='https://a.example/?p=3&#038;lang=en'>{}</a>",
        "<a href='/pricing/#pro'>{}</a>",
        "<a href='#'>{}</a>",
        "<a title='issue href=#5'>{}</a>",
        "<div href='#a'>{}</div>",
        "<a href='#pro'>" + "It says what it is. " * 4 + "{}</a>",
        "<p><a href='#a'>A</a></p><p>{}</p>",
    ],
)
def test_what_is_no_entry(page):
    units = HtmlBlocks(128).segment(
        Document(page.format("Tea takes four minutes."), kind="html"), get_counter()
    )
    (answer,) = (n for n, text in enumerate(units.texts) if "Tea" in text)
    assert units.entry is None or not units.entry[answer]


@given(
    st.lists(st.sampled_from(["<a href='#x'>", "<a ", "</a>", "a", "<", "#", ">", "<p>", " href=#b ", "'"]))
)
def test_links_that_are_broken_do_no_harm(parts):
    units = html("".join(parts))
    assert units.entry is None or (units.entry.shape == (len(units),) and units.entry.dtype == bool)
    assert units.entry is None or "href" in "".join(parts)


@pytest.mark.parametrize("question", ["<h3>{}</h3>", "<p>{}</p>"])
def test_the_same_words_about_something_else_are_no_repetition(question):
    asked = ["Do you ship to Canada?", "Do you ship to Norway?", "Do you ship to Mexico?"]
    answers = ["Yes, in five days.", "No, sorry.", "Yes, in five days."]
    page = "".join(f"{question.format(q)}<p>{a}</p>" for q, a in zip(asked, answers, strict=True))
    units = html(page)
    scores = Structured(Fixed(range(1, 7))).score("q", [units])[0]
    assert scores[[units.texts.index(asked[2]) + 1]].tolist() == [6]
    assert scores[1::2].tolist() == [2, 4, 6]


def test_signs_and_digits_tell_texts_apart():
    text = "Build 11.2 came on Monday. Build 1.12 came on Monday. Build 1.12 came on Monday."
    assert Structured(Fixed([3, 2, 1.5])).score("q", [sentences(text)])[0].tolist() == [3, 2, 1.5]
    assert Structured(Fixed([3, 2, 1.5, 1])).score("q", [sentences(text + " One.")])[0][2] == 1


def test_a_sentence_that_introduces_a_list_may_be_the_answer():
    page = (
        "<p>Acme Corp was founded in 1907 in Vienna by three brothers:</p><ul><li>Otto Acme the first"
        "</li><li>Karl Acme the second</li></ul><p>Its rooms:</p><ul><li>one in the old harbour</li><li>two in "
        "the new harbour</li></ul>"
    )
    units = HtmlBlocks(12).segment(Document(page, kind="html"), get_counter())
    scores = Structured(Fixed(range(len(units), 0, -1))).score("q", [units])[0]
    heads = sorted({int(i) for i in units.lead if i >= 0})
    assert [units.texts[i][:4] for i in heads] == ["Acme", "Its "]
    assert scores[heads].tolist() == [len(units), 1]


def test_entry_of_a_table_of_contents():
    page = "<p>Sleeping cats</p><h2>Sleeping cats</h2><p>They do it all day.</p>"
    assert Structured(Fixed([9, 9, 1])).score("q", [html(page)])[0].tolist() == [1, 1, 1]


def test_long_lead_is_content():
    page = f"<h2>{'word ' * 50}</h2><p>They sleep.</p>"
    units = HtmlBlocks(64).segment(Document(page, kind="html"), get_counter())
    assert Structured(Fixed([9, 1])).score("q", [units])[0].tolist() == [9, 1]


def test_rows_that_others_are_read_with_are_content():
    page = "<table><tr><th>A<th>B</tr><tr><td rowspan=2>one<td>two</tr><tr><td>three</tr></table>"
    units = HtmlBlocks(1).segment(Document(page, kind="html"), get_counter())
    assert units.lead.tolist() == [-1, 0, 1]
    assert Structured(Fixed([3, 2, 1])).score("q", [units])[0].tolist() == [1, 2, 1]


def test_lowest_is_that_of_the_whole_call():
    scores = Structured(Fixed([9, 5], [1, 2])).score(
        "q", [html("<h2>Cats</h2><p>They sleep.</p>"), sentences("One. Two.")]
    )
    assert [s.tolist() for s in scores] == [[1, 5], [1, 2]]


def test_structured_without_units():
    assert Structured(BM25()).score("q", []) == []
    assert [len(s) for s in Structured(BM25()).score("q", [html("")])] == [0]


@given(
    st.lists(st.floats(-5, 5), min_size=4, max_size=4),
    st.lists(st.floats(0, 1), min_size=4, max_size=4),
    st.integers(0, 40),
)
def test_cascade(cheap, expensive, max_tokens):
    """The expensive scorer reads the best of the cheap one; the rest count as the least of what it read."""
    units = sentences("First one. Second sentence here. Third. The fourth sentence is the longest of all.")
    reader = ByText(dict(zip(units.texts, expensive, strict=True)))
    got = Cascade(Fixed(cheap), reader, max_tokens, weight=0.3).score("q", [units])[0]
    order = sorted(range(4), key=lambda n: (-cheap[n], n))
    chosen, used = order[:1], max(1, int(units.cost[order[0]]))
    for n in order[1:]:
        used += max(1, int(units.cost[n]))
        if used > max_tokens:
            break
        chosen.append(n)
    assert reader.read == [units.texts[n] for n in sorted(chosen)]
    top = max(max(map(abs, cheap)), 1e-9)
    least = min(expensive[n] for n in chosen)
    for n in range(4):
        read = expensive[n] if n in chosen else least
        assert got[n] == pytest.approx(0.3 * cheap[n] / top + read, abs=1e-12)


def test_cascade_reads_twice_a_budget():
    assert Cascade(BM25(), ByText({}), 100).within(40).max_tokens == 100
    assert Cascade(BM25(), ByText({}), 100).within(400).max_tokens == 800
    assert within(Structured(Neighbours(Cascade(BM25(), BM25(), 100))), 70).scorer.scorer.max_tokens == 140
    assert within(BM25(), 70) == BM25()


def test_cascade_over_several_documents():
    one, two = sentences("Cats sleep. Dogs bark."), sentences("A needle is sharp. Hay is soft.")
    reader = ByText(dict.fromkeys([*one.texts, *two.texts], 0.5))
    scores = Cascade(BM25(), reader, 5).score("needle", [one, two])
    assert [len(s) for s in scores] == [2, 2]
    assert reader.read == ["A needle is sharp. "]
    assert max(range(4), key=np.concatenate(scores).__getitem__) == 2


def test_cascade_without_units():
    assert Cascade(BM25(), ByText({})).score("q", []) == []
    assert [len(s) for s in Cascade(BM25(), ByText({})).score("q", [html("")])] == [0]
