"""Renderers: the same form, plain text out of HTML, and what all of them have in common."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenprune import Pruner
from tokenprune.budget import Budget
from tokenprune.document import Document
from tokenprune.pipeline import Pipeline
from tokenprune.render.markdown import Markdown
from tokenprune.render.source import SameForm
from tokenprune.render.text import PlainText
from tokenprune.score.bm25 import BM25
from tokenprune.segment.html_blocks import HtmlBlocks
from tokenprune.segment.sentences import Sentences
from tokenprune.select.simple import Everything
from tokenprune.tokens import get_counter

RENDERERS = [SameForm(), PlainText(), Markdown()]


def html(page, max_words=64):
    return HtmlBlocks(max_words).segment(Document(page, kind="html"), get_counter())


def plain(page, keep=None, max_words=64):
    units = html(page, max_words)
    mask = np.ones(len(units), dtype=bool) if keep is None else np.asarray(keep, dtype=bool)
    return PlainText().render(units, mask).text


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        ("", ""),
        ("<p>one</p><p>two</p>", "one\ntwo"),
        ("<h1>H</h1>text<ul><li>a<li>b</ul>", "H\ntext\na\nb"),
        ("<p>a<br>b</p>", "a\nb"),
        ("<p>a &amp; b &lt;i&gt; &eacute;</p>", "a & b <i> é"),
        ("<table><tr><th>A</th><th>B</th></tr><tr><td>1</td><td>2</td></tr></table>", "A\tB\n1\t2"),
        (
            "<table><tr><td></td><td>1</td></tr><tr><td><p>a</p><p>b</p></td><td>2</td></tr></table>",
            "\t1\na b \t2",
        ),
        ("<pre>a\n  b</pre>", "a\n  b"),
        ("<p>x</p><pre>\na\n\n\n  b\n</pre><p>y</p>", "x\na\n\n\n  b\ny"),
        ("<address>a</address><select><option>b<option>c</select>", "a\nb\nc"),
        ("<p>x<sup>2</sup> <code>f()</code></p>", "x^2 f()"),
        ("<p>2<sup>10</sup> x<sub>2</sub> x<sub>i</sub> 10<sup>-3</sup>", "2^10 x_2 x_i 10^-3"),
        ("<p>e<sup>a+b</sup>, H<sub>2</sub>O, 1<sup>st</sup>, a<sup>[1]</sup>", "e^(a+b), H2O, 1st, a[1]"),
        ("<p><sup>2</sup>x <sub>i</sub>", "2x i"),
        (
            "<math><mfrac><mn>1</mn><mn>2</mn></mfrac><mo>+</mo><msup><mi>x</mi><mn>2</mn></msup></math>",
            "1/2+x^2",
        ),
        ("<math><mfrac><mrow><mi>a</mi><mo>+</mo><mi>b</mi></mrow><mi>c</mi></mfrac>", "(a+b)/c"),
        ("<math><msqrt><mi>y</mi></msqrt><mroot><mi>z</mi><mn>3</mn></mroot></math>", "\u221ayz^(1/3)"),
        ("<div><div>a</div>\n\n<div>b</div></div>", "a\nb"),
    ],
)
def test_plain_text(page, expected):
    assert plain(page) == expected


def test_plain_text_of_some_units():
    page = "<ul><li>one two</li><li>three four</li><li>five six</li></ul>"
    assert plain(page, [1, 0, 1], max_words=2) == "one two\nfive six"
    assert plain(page, [0, 0, 0], max_words=2) == ""


def test_plain_text_of_plain_text():
    units = Sentences().segment(Document("One. Two. Three.", kind="text"), get_counter())
    keep = np.array([True, False, True])
    assert PlainText().render(units, keep).text == SameForm().render(units, keep).text == "One. Three."


@pytest.mark.parametrize("renderer", RENDERERS[:2], ids=lambda r: type(r).__name__)
@given(data=st.data())
def test_adds_no_word(renderer, data, strategies, read_html):
    page = data.draw(strategies.nested_html)
    units = html(page, 4)
    keep = data.draw(st.lists(st.booleans(), min_size=len(units), max_size=len(units)))
    rendered = renderer.render(units, np.asarray(keep, dtype=bool))
    letters = rendered.text if isinstance(renderer, PlainText) else read_html.text(rendered.text)
    assert read_html.is_subsequence("".join(letters.split()), "".join(read_html.text(page).split()))


FORMS = {"brief": SameForm(), "full": SameForm(brief=False), "text": PlainText()}


@pytest.mark.parametrize("form", FORMS)
@given(data=st.data())
def test_words_do_not_run_together(form, data, strategies, read_html):
    """Whatever goes, a word of the output is one of the page's or, in scripts without spaces, a part of one."""
    page = data.draw(strategies.nested_html)
    units = html(page, data.draw(st.integers(1, 4)))
    keep = data.draw(st.lists(st.booleans(), min_size=len(units), max_size=len(units)))
    text = FORMS[form].render(units, np.asarray(keep, dtype=bool)).text
    words = read_html.without_formats(text).split() if form == "text" else read_html.words(text)
    known = read_html.words(page)
    assert all(any(word in other for other in known) for word in words)


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        ("<table><tr><td>A<td>B</tr><tr><td>1<table><tr><td>x<td>y</table><td>2</table>", "A\tB\n1 x y \t2"),
        ("<div>one<td>two</td></div>", "one two"),
        ("<div><td>one</td>two</div>", "one\ntwo"),
        ("<table><tr><td>1<td>2<tr><td>3<td>4</table>", "1\t2\n3\t4"),
    ],
)
def test_words_of_cells_stand_apart_in_text(page, expected):
    units = html(page, 1)
    assert PlainText().render(units, np.ones(len(units), dtype=bool)).text == expected


@pytest.mark.parametrize(
    ("page", "keep", "expected"),
    [
        (
            "<div>one two<p>gone</p><code>three</code> four</div>",
            [1, 0, 1],
            "one two\n<code>three</code> four",
        ),
        (
            "<div><code>one</code><p>gone</p><code>two</code></div>",
            [1, 0, 1],
            "<code>one\n</code><code>two</code>",
        ),
        ("<div><code>one</code><p>gone</p> two</div>", [1, 0, 1], "<code>one</code>\ntwo"),
        ("<div>one<p>gone</p><ul><li>two</ul></div>", [1, 0, 1], "one<ul><li>two</ul>"),
    ],
)
def test_words_beside_something_dropped(page, keep, expected):
    units = html(page, 2)
    assert len(units) == len(keep)
    mask = np.asarray(keep, dtype=bool)
    out = SameForm().render(units, mask).text.removeprefix("<div>").removesuffix("</div>")
    assert out == expected
    kept = [text for text, k in zip(units.texts, keep, strict=True) if k]
    assert PlainText().render(units, mask).text.split() == " ".join(kept).split()
    assert (
        Markdown().render(units, mask).text.replace("`", "").replace("-", "").split()
        == " ".join(kept).split()
    )


@pytest.mark.parametrize("renderer", RENDERERS, ids=lambda r: type(r).__name__)
def test_offsets_lead_back_to_the_source(renderer, samples):
    page = samples.page(1)
    rendered = renderer.render(html(page), np.ones(len(html(page)), dtype=bool))
    for word in ("starttls", "perf_counter", "appending", "Library"):
        at = rendered.text.index(word)
        source = int(rendered.offsets.to_source(np.array([at]))[0])
        # Exact where white space in front of the word was not folded, as here.
        assert page[source : source + len(word)] == word


@pytest.mark.parametrize("renderer", RENDERERS, ids=lambda r: type(r).__name__)
@given(data=st.data())
def test_offsets_are_ascending_and_inside(renderer, data, strategies):
    page = data.draw(strategies.html)
    units = html(page, 4)
    keep = np.asarray(
        data.draw(st.lists(st.booleans(), min_size=len(units), max_size=len(units))), dtype=bool
    )
    rendered = renderer.render(units, keep)
    mapped = rendered.offsets.to_source(np.arange(len(rendered.text))).tolist()
    assert mapped == sorted(mapped)
    assert all(0 <= m <= len(page) for m in mapped)


@pytest.mark.parametrize("renderer", RENDERERS[1:], ids=lambda r: type(r).__name__)
def test_offsets_are_exact(renderer):
    """Through entities, folded white space, escapes and the indent of code every letter leads to itself."""
    page = (
        "<p>A &amp; B &lt;i&gt; &eacute;t&eacute;   *a* _b_*c*\n\n __d__ &#35; e</p><ul><li><p>f g</p><pre>\n"
        "h\n  i &lt;j&gt;\n\n   k</pre></li></ul><table><tr><td>l|m &amp;&amp; n</td><td> o p </td></tr></table>"
    )
    units = html(page)
    rendered = renderer.render(units, np.ones(len(units), dtype=bool))
    places = rendered.offsets.to_source(np.arange(len(rendered.text))).tolist()
    letters = [
        (c, page[p]) for c, p in zip(rendered.text, places, strict=True) if c.isascii() and c.isalnum()
    ]
    assert "".join(c for c, _ in letters) == "ABitabcdefghijklmnop"
    assert all(c == source for c, source in letters)


def test_plain_text_pruner_stays_in_the_budget(samples):
    method = Pruner(HtmlBlocks(32), BM25(), Everything(), PlainText(), name="plain", kinds=("html",))
    document = Document(samples.page(3))
    result = Pipeline([method]).prune("open a file", [document], Budget(max_tokens=200))
    text = result.documents[0].text
    assert "<" not in text
    assert 180 <= get_counter().count(text) == result.tokens_after <= 200


@pytest.mark.parametrize(
    ("page", "keep", "expected"),
    [
        ("<div><p>one two</p>\n\n<dl>\n<dt>a b</dt>\n</dl>\n\n<p>c d</p></div>", [0, 1, 0], "<dt>a b</dt>"),
        ("<p>one two</p>\n<pre>\n\n a\n\n</pre>\n<p>c d</p>", [0, 1, 0], "<pre>\n\n a\n\n</pre>"),
    ],
)
def test_no_blank_lines_at_the_ends(page, keep, expected):
    units = html(page, 2)
    assert len(units) == len(keep)
    rendered = SameForm().render(units, np.asarray(keep, dtype=bool))
    assert rendered.text == rendered.text.strip()
    assert expected in rendered.text
    at = rendered.text.index(expected)
    assert page[int(rendered.offsets.to_source(np.array([at]))[0]) :].startswith(expected[:5])
