"""The markup beside the units: elements, inline elements and spans, on any page."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tokenprune.document import Document
from tokenprune.segment.html_blocks import HtmlBlocks
from tokenprune.tokens import get_counter

PAGE = (
    '<html><body class=b><div id=nav><a href="/">Home</a> <span class=x>a <b>bold</b></span> word</div>'
    "<p lang=en>One <code>two</code> three.<br>Next line</p>tail"
    '<a href="/card"><div>in a <i>card</i></div></a></body></html>'
)


def segment(page, max_words=24, *, markup=True):
    return HtmlBlocks(max_words, markup=markup).segment(Document(page, kind="html"), get_counter())


def spans(markup):
    """(text, tag and attributes of the block, names of the inline elements around), per span."""
    rows = []
    for text, node, inline in zip(
        markup.span_text, markup.span_node.tolist(), markup.span_inline.tolist(), strict=True
    ):
        names = []
        while inline >= 0:
            names.append(markup.inline_tag[inline])
            inline = markup.inline_parent[inline]
        block = (markup.tag[node], markup.attributes[node].strip()) if node >= 0 else ("", "")
        rows.append((text.strip(), *block, [n for n in names if n not in ("html", "body", "head")]))
    return rows


def test_spans_know_what_is_around_them():
    markup = segment(PAGE).markup
    assert spans(markup) == [
        ("Home", "div", "id=nav", ["a"]),
        ("a", "div", "id=nav", ["span"]),
        ("bold", "div", "id=nav", ["b", "span"]),
        ("word", "div", "id=nav", []),
        ("One", "p", "lang=en", []),
        ("two", "p", "lang=en", []),
        ("three.", "p", "lang=en", []),
        ("Next line", "p", "lang=en", []),
        ("tail", "", "", []),
        ("in a", "div", "", ["a"]),
        ("card", "div", "", ["i", "a"]),
    ]
    assert markup.inline_attributes[markup.inline_tag.index("a")].strip() == 'href="/"'


def test_lines_end_at_blocks_and_breaks():
    markup = segment(PAGE).markup
    lines = ["" for _ in range(int(markup.span_line[-1]) + 1)]
    for line, text in zip(markup.span_line.tolist(), markup.span_text, strict=True):
        lines[line] += text
    assert [" ".join(line.split()) for line in lines] == [
        "Home a bold word", "One two three.", "Next line", "tail", "in a card"
    ]  # fmt: skip


def test_collapsed_wrappers_are_still_known():
    markup = segment('<div class="outer"><div class="inner"><p>text</p></div></div>').markup
    node = int(markup.span_node[0])
    path = []
    while node >= 0:
        path.append((markup.tag[node], markup.attributes[node].strip()))
        node = markup.parent[node]
    assert path == [("p", ""), ("div", 'class="inner"'), ("div", 'class="outer"')]


def test_hidden_and_empty_parts_leave_no_trace():
    markup = segment("<div hidden><a href=x>no</a></div><div class=e><a href=y></a></div><p>yes</p>").markup
    assert spans(markup) == [("yes", "p", "", [])]


def test_headings_lead_only_their_own_part():
    page = (
        "<title>Title</title><div><h2>Menu</h2><ul><li>entry</ul></div>"
        "<div><h1>Top</h1><p>text</p><section><h3>Part</h3><p>more</p></section><p>last</p></div>"
    )
    units = segment(page, max_words=1)
    lead = {units.texts[u]: units.texts[v] if v >= 0 else None for u, v in enumerate(units.lead.tolist())}
    assert lead == {
        "Title": None, "Menu": None, "entry": "Menu", "Top": None, "text": "Top", "Part": "Top", "more": "Part",
        "last": "Top",
    }  # fmt: skip


@given(data=st.data())
def test_units_are_the_same_with_and_without(data, strategies):
    page = data.draw(strategies.html)
    words = data.draw(st.integers(1, 40))
    plain, marked = segment(page, words, markup=False), segment(page, words)
    assert plain.markup is None
    assert (plain.texts, plain.pieces.text, plain.range_reason) == (
        marked.texts,
        marked.pieces.text,
        marked.range_reason,
    )
    assert np.array_equal(plain.range_start, marked.range_start)
    assert (marked.lead <= plain.lead).all()


@given(data=st.data())
def test_columns_fit_together(data, strategies):
    units = segment(data.draw(strategies.html), data.draw(st.integers(1, 40)))
    markup = units.markup
    assert len(markup.tag) == len(markup.parent) == len(markup.attributes)
    assert len(markup.inline_tag) == len(markup.inline_parent) == len(markup.inline_attributes)
    assert all(p < e for e, p in enumerate(markup.parent))
    assert all(p < e for e, p in enumerate(markup.inline_parent))
    assert len(markup.span_unit) == len(markup.span_line) == len(markup.span_text) == len(markup.span_node)
    for column, size in ((markup.span_unit, len(units)), (markup.span_node, len(markup.tag))):
        assert not len(column) or (column.min() >= -1 and column.max() < size)
    assert (np.diff(markup.span_line) >= 0).all() and (np.diff(markup.span_line) <= 1).all()
    words = [" ".join(t.split()) for t in markup.span_text]
    pieces = zip(units.pieces.text, units.pieces.owner.tolist(), units.pieces.tag, strict=True)
    assert words == [
        " ".join(t.split()) for t, owner, tag in pieces if owner >= 0 and not tag and not t.isspace()
    ]
