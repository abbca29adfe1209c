"""Markup that can be left out: the page must mean the same without it, whatever is pruned."""

import gzip
import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenprune.document import Document
from tokenprune.segment.html_blocks import HtmlBlocks
from tokenprune.segment.html_clean import clean
from tokenprune.segment.html_compact import compact
from tokenprune.tokens import get_counter

words = st.sampled_from(["one", "two three", "a < b", "<code>x</code> y"])
blocks = st.recursive(
    st.one_of(words.map("<p>{}</p>".format), words.map("<h2>{}</h2>".format), words),
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(lambda x: f"<div>{''.join(x)}</div>"),
        st.lists(inner, min_size=1, max_size=3).map(
            lambda x: f"<ul>{''.join(f'<li>{i}</li>' for i in x)}</ul>"
        ),
        st.lists(inner, min_size=1, max_size=3).map(
            lambda x: f"<dl>{''.join(f'<dt>t</dt><dd>{i}</dd>' for i in x)}</dl>"
        ),
        st.lists(st.lists(inner, min_size=1, max_size=3), min_size=1, max_size=3).map(
            lambda rows: (
                "<table><tbody>"
                + "".join(f"<tr>{' '.join(f'<td>{c}</td>' for c in r)}</tr>\n" for r in rows)
                + "</tbody></table>"
            )
        ),
        inner.map("<blockquote>{}</blockquote>".format),
        inner.map("<section>{}</section>".format),
    ),
    max_leaves=8,
)

GROUPING = {"div", "section", "article", "main", "hgroup", "form", "tbody"}


def shape(text):
    """Tags and words of a page as a parser repairs them; without elements that only group."""
    page = clean(text)
    out = []
    for kind, node, piece in zip(page.kind, page.node, page.text, strict=True):
        if kind in (0, 1):
            if page.alive[node] and page.tag[node] not in GROUPING:
                out.append(piece)
        elif not piece.isspace():
            out.append(" ".join(piece.split()))
    return out


def joined(page, texts):
    """The texts of the events that are in the output."""
    alive = [page.alive[n] if k in (0, 1) else True for k, n in zip(page.kind, page.node, strict=True)]
    return "".join(t for t, a in zip(texts, alive, strict=True) if a)


def full(text):
    page = clean(text)
    return joined(page, page.text)


def written(text):
    page = clean(text)
    return joined(page, compact(page))


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        ("<table><tr><td>a</td> <td>b</td></tr><tr><th>c</th><td>d</td></tr></table>",
         "<table><tr><td>a<td>b<tr><th>c<td>d</table>"),
        ("<table><tbody><tr><td>a</td><td>b</td></tr></tbody></table>", "<table><tr><td>a<td>b</table>"),
        ("<table><thead><tr><th>a</th></tr></thead><tbody><tr><td>b</td></tr></tbody></table>",
         "<table><thead><tr><th>a</thead><tr><td>b</table>"),
        ("<ul><li>a</li><li>b<ul><li>c</li><li>d</li></ul></li></ul>", "<ul><li>a<li>b<ul><li>c<li>d</ul></ul>"),
        ("<dl><dt>a</dt><dd>b</dd></dl>", "<dl><dt>a</dt><dd>b</dd></dl>"),
        ("<div><p>a</p><p>b</p></div>", "<p>a<p>b"),
        # white space of a row that holds words of its own parts them
        ("<table><tr>a<b> </b><b>c</b><td>d</td></tr></table>", "<table><tr>a c<td>d</td></table>"),
        # bare words beside it would fall into the paragraph, the item or the row
        ("<div><p>a</p>b</div>", "<div><p>a</p>b</div>"),
        ("<ul><li>a</li>b</ul>", "<ul><li>a</li>b</ul>"),
        ("<div><p>a</p><section>b<p>c</p></section></div>", "<p>a</p><section>b<p>c</p></section>"),
        ("<div>a</div><div>b</div>", "<div>a</div><div>b</div>"),
        # without the division the list inside would end the address
        ("<address><section><ul><li>a</ul><p>b</p></section><p>c</p></address>",
         "<address><section><ul><li>a</ul><p>b</section><p>c</p></address>"),
        ("<nav><p>a</p><p>b</p></nav>", "<nav><p>a<p>b</nav>"),
        ("<p>a <code>b</code></p><pre>c\n d</pre>", "<p>a <code>b</code><pre>c\n d</pre>"),
    ],
)  # fmt: skip
def test_what_goes(page, expected):
    assert written(page) == expected
    assert shape(expected) == shape(full(page))


@given(st.lists(blocks, min_size=1, max_size=4).map("".join))
def test_same_page(page):
    assert shape(written(page)) == shape(full(page))


@given(st.lists(blocks, min_size=1, max_size=4).map("".join), st.data())
def test_same_page_after_pruning(page, data):
    """Any part of the blocks reads the same, written briefly or in full."""
    document, counter = Document(page, kind="html"), get_counter()
    short, long = (HtmlBlocks(2, brief=b).segment(document, counter) for b in (True, False))
    keep = np.asarray(
        data.draw(st.lists(st.booleans(), min_size=len(short), max_size=len(short))), dtype=bool
    )
    a, b = (u.pieces.join(u.piece_mask(keep)).text for u in (short, long))
    assert shape(a) == shape(b)
    assert short.texts == long.texts
    assert counter.count(a) <= counter.count(b)


@pytest.mark.skipif("TOKENPRUNE_DATA" not in os.environ, reason="needs TOKENPRUNE_DATA")
@pytest.mark.parametrize("name", ["docs", "wikitables", "boilerplate"])
def test_real_pages(name):
    folder = Path(os.environ["TOKENPRUNE_DATA"]) / "html" / name
    file = next(f for f in sorted(folder.glob("*.jsonl.gz")) if f.name != "questions.jsonl.gz")
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        for line in list(lines)[::9]:
            page = json.loads(line)["html"]
            assert shape(written(page)) == shape(full(page))
