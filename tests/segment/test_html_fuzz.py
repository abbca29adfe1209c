"""Malformed pages of every kind: whatever comes in, the invariants hold."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tokenprune as tp
from tokenprune.segment.html_blocks import HtmlBlocks
from tokenprune.segment.html_clean import clean
from tokenprune.segment.html_page import CLOSE, OPEN
from tokenprune.tokens import get_counter

# -- a grammar of broken pages ------------------------------------------------------------------------

NAMES = (
    "div p span b i a em ul ol li dl dt dd table caption thead tbody tfoot tr td th h1 h2 h3 pre code q sup del"
    " form fieldset legend select optgroup option textarea title center font section article nav address"
    " blockquote listing menu dir body html head noscript label button object svg math foreignObject g mi mrow"
    " annotation-xml my-tag o:p h7"
).split()
RAW = "script style xmp iframe noembed noframes template".split()
WORDS = [
    "needle",
    "budget",
    "日本語",
    "e.g.",
    "naïve",
    "a",
    "b.",
    "Ω",
    "م\u200cم",
    "👩\u200d🚀",
    "x\u200by",
    "hy\u00adphen",
]
ENTITIES = ["&amp;", "&amp", "&lt", "&lt;b&gt;", "&copy", "&nbsp;", "&#0;", "&#x41", "&#xD800;", "&#99999999;", "&bogus;",
            "&", "&&", "&#", "&#x;", "&#8203;", "&zwj;", "&shy", "&notit;", "&" + "a" * 70]  # fmt: skip
ODD = ["\x00", "\ud800", "\udfff", "\ufeff", "\u200b", "\u202e", "\u2028", "\x0b", "\x0c", "\r", "\r\n", "\U000e0041",
       "\u0301", "<", ">", "\"", "'", "=", "/", "]]>", "<>", "</>", "< b", "<3", "<!", "<?", "</ x>", "<-"]  # fmt: skip
ATTRIBUTES = ["", "", " x=1", " class='a b'", ' title="a > b', " title='<p>", " =", " a=b=c", " /", " hidden", " style='display:none'",
              " style='visibility:hidden'", " style='visibility:visible'", " style='color:#fff;background:#fff'",
              " style='font-size:0'", " style='font-size:12px'", " bgcolor=white color=white", " style=\"a:(", " tp-n=0", " label='a b'",
              " href=x", " alt='" + "z" * 3000 + "'", " <b", " \x00=\x00", " é=\ud800", "\n\t"]  # fmt: skip
COMMENTS = ["<!-- c -->", "<!-->", "<!--->", "<!-- a --!>", "<!--", "<!-- <p>gone", "<!doctype html>", "<![CDATA[ x ]]>",
            "<![CDATA[", "<?php echo '<p>' ?>", "<plaintext>", "<frameset>", "<base x>", "<isindex>", "<template shadowrootmode=open>"]  # fmt: skip
VOID = [
    "<br>",
    "</br>",
    "<hr>",
    "<img src=x alt=sun>",
    "<input>",
    "<input type=submit value='go &amp; on'>",
    "<wbr>",
    "<col>",
    "<p/>",
    "<div/>",
]

names = st.sampled_from(NAMES)
attributes = st.lists(st.sampled_from(ATTRIBUTES), max_size=2).map("".join)
spaces = st.sampled_from(["", " ", "\n", "  "])
words = st.lists(
    st.one_of(st.sampled_from(WORDS), st.sampled_from(ENTITIES), spaces), min_size=1, max_size=6
).map("".join)
starts = st.builds("<{}{}>".format, names, attributes)
ends = st.builds("</{}{}>".format, names, st.sampled_from(["", " ", " x=1", "\n/"]))
cut_tags = st.builds("<{}{}".format, names, attributes)
raw = st.builds("<{0}>{1}</{2}>".format, st.sampled_from(RAW), words, st.sampled_from([*RAW, "b"]))
atoms = st.one_of(words, words, starts, ends, st.sampled_from(VOID), st.sampled_from(ODD))
rare = st.one_of(cut_tags, raw, st.sampled_from(COMMENTS))
MISNESTED = ["<b>{}<i>{}</b>{}</i>", "<a href=x>{}<a>{}</a>{}", "<p>{}<table>{}</p>{}</table>", "<table>{}<tr>{}<td>{}",
             "<ul>{}<li>{}</ul>{}", "<h1>{}<h2>{}</h1>{}", "<form>{}<form>{}</form>{}", "<pre>{}<div>{}</pre>{}",
             "<select>{}<table>{}</select>{}", "<table>{}<table>{}</table>{}</table>", "<svg>{}<p>{}</svg>{}",
             "<math><mi>{}</mi><annotation-xml>{}</math>{}", "<dl><dt>{}<dd>{}<dt>{}", "<div hidden>{}</p>{}</div>{}",
             "<div style='visibility:hidden'>{}<p style='visibility:visible'>{}</p>{}</div>", "{}<code>{}<div>{}</code></div>",
             "<b hidden>{}<p>{}</b>{}</p>", "<p>{}<i style='visibility:hidden'>{}<div>{}</i></div>"]  # fmt: skip


def around(children):
    return st.one_of(
        st.builds("<{0}{1}>{2}</{0}>".format, names, attributes, children),
        st.builds(
            lambda shape, a, b, c: shape.format(a, b, c),
            st.sampled_from(MISNESTED),
            children,
            children,
            children,
        ),
        st.builds(
            lambda tag, n, inner: f"<{tag}>" * n + inner, names, st.sampled_from([2, 40, 260]), children
        ),
        st.lists(children, max_size=4).map("".join),
    )


broken_pages = st.lists(
    st.one_of(st.recursive(atoms, around, max_leaves=12), rare), min_size=1, max_size=6
).map("".join)


def cleaned(source, **options):
    page = clean(source, **options)
    rows = zip(page.kind, page.node, page.text, strict=True)
    return "".join(text for kind, node, text in rows if kind not in (OPEN, CLOSE) or page.alive[node])


@given(broken_pages, st.sampled_from([(), ("href", "alt", "title")]), st.booleans())
@settings(max_examples=150)
def test_cleaning(source, keep, drop):
    page = clean(source, keep, drop_hidden=drop)
    assert page.begin == sorted(page.begin)
    assert all(0 <= a <= b <= len(source) for a, b in zip(page.begin, page.after, strict=True))
    edges = [e for a, b, _ in page.dropped for e in (a, b)]
    assert edges == sorted(edges)
    assert all(0 <= e <= len(source) for e in edges)
    assert all(a < b and why for a, b, why in page.dropped)
    assert all(why.startswith("hidden:") is False for *_, why in page.dropped) or drop
    open_nodes = []
    for kind, node in zip(page.kind, page.node, strict=True):
        if kind == OPEN:
            open_nodes.append(node)
        elif kind == CLOSE:
            assert open_nodes.pop() == node
    assert open_nodes == []


@given(source=broken_pages)
@settings(max_examples=150)
def test_cleaning_twice(source, read_html):
    once = cleaned(source)
    twice = cleaned(once)
    assert read_html.text(twice) == read_html.text(once)
    assert read_html.tree(twice) == read_html.tree(once)


@given(broken_pages, st.sampled_from([1, 4, 40]), st.booleans(), st.booleans())
@settings(max_examples=100)
def test_blocks(source, size, brief, marked):
    segmenter = HtmlBlocks(size, brief=brief, markup=marked)
    units = segmenter.segment(tp.Document(source, kind="html"), get_counter())
    starts = units.range_start.tolist()
    assert starts == sorted(set(starts))
    assert starts[:1] == [0] * bool(source)
    assert all(0 <= s < len(source) for s in starts)
    assert set(units.range_owner.tolist()) <= {*range(-1, len(units))}
    pieces = units.pieces
    assert (np.diff(pieces.src_start) >= 0).all()
    assert (pieces.src_start <= pieces.src_end).all()
    page = clean(source)
    written = [
        t
        for k, n, t in zip(page.kind, page.node, page.text, strict=True)
        if k not in (OPEN, CLOSE) or page.alive[n]
    ]
    if len(units):  # line breaks alone are nothing
        assert "".join(pieces.text).strip() == "".join(written).strip()
    rendered = pieces.join(np.ones(len(pieces.text), dtype=bool))
    places = rendered.offsets.to_source(np.arange(len(rendered.text)))
    assert (np.diff(places) >= 0).all()


@given(
    source=broken_pages,
    limit=st.integers(0, 60),
    method=st.sampled_from(["clean-html", "htmlrag-bm25", "bm25-sentences"]),
)
@settings(max_examples=100)
def test_pruning_to_a_budget(source, limit, method, check):
    # A tag that the end cuts may be read as text, which the independent reader does not do.
    for tag in ("plaintext", "xmp", "template"):  # and it reads entities and tags everywhere
        source = source.replace(f"<{tag}", "<p")
    document = tp.Document(source + "\">'>", kind="html")
    result = tp.Pipeline([method]).prune("Where is the needle?", [document], tp.Budget(max_tokens=limit))
    check(result, [document], limit)


SMALL = [
    "<plaintext>a</plaintext><b>", "<table><table><tr><table><td>a", "<svg><title>a</svg>b", "<![CDATA[<p>a]]>b",
    "<a b='" + "x" * 100_000, "<p" + " a" * 10_000 + ">b", "&" * 1000, "<b>" * 300 + "a" + "</i>" * 300,
    "<select><select><option><p>a", "<math><annotation-xml encoding='text/html'><p>a</math>b", "\ud800<\udfff>\x00",
    "<frameset><frame><p>a</frameset>b", "<p>a</br>b</p>", "<template><p>a", "</html></body>a<html>b", "<title>a<title>b",
]  # fmt: skip


@pytest.mark.parametrize("source", SMALL, ids=range(len(SMALL)))
def test_known_curiosities(source, check, read_html):
    document = tp.Document(source, kind="html")
    for limit in (0, 5, 50):
        check(
            tp.Pipeline(["htmlrag-bm25"]).prune("a", [document], tp.Budget(max_tokens=limit)),
            [document],
            limit,
        )
    once = cleaned(source)
    assert read_html.text(cleaned(once)) == read_html.text(once)
