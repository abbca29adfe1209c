"""What the tests of the core share: profiles, strategies, an independent reading of HTML, invariants.

Test modules cannot import one another (import mode "importlib"), so all of this is handed out as fixtures.
"""

import json
import os
import re
import unicodedata
import warnings
from html import unescape
from types import SimpleNamespace

import pytest
from bs4 import BeautifulSoup, NavigableString, Tag
from bs4._warnings import UnusualUsageWarning
from bs4.element import CData
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from warm import warm

from tokenprune.tokens import get_counter, sanitize

_QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large]
settings.register_profile("default", deadline=None, max_examples=40, suppress_health_check=_QUIET)
settings.register_profile("ci", settings.get_profile("default"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")

if (
    "PYTEST_XDIST_WORKER" in os.environ
):  # before torch is imported: two workers must not share two cores four ways
    os.environ["OMP_NUM_THREADS"] = "1"


def _group(item):
    if item.get_closest_marker("vllm"):
        return "vllm"
    return "warm" if "warm_python" in item.fixturenames else item.nodeid.partition("::")[0]


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the marks
def pytest_collection_modifyitems(items):
    """Which tests share a worker, so that what several of them start or load is started or loaded once.

    Those with a real vLLM, one server at a time; those that fork the warm process; else those of a file. The
    first two take longest and come first: with --no-loadscope-reorder workers take groups in this order.
    """
    for item in items:
        item.add_marker(pytest.mark.xdist_group(_group(item)))
    order = {"vllm": 0, "warm": 1}
    items.sort(key=lambda item: order.get(_group(item), 2))


# -- strategies ---------------------------------------------------------------------------------------

_ODD = [
    "\x00",
    "\ud800",
    "\udfff",
    "\ufeff",
    "\u200d",
    "e\u0301",
    "👩‍👩‍👧",
    "🇩🇪",
    "𝔘",
    "\u00a0",
    "\x0b",
    "\u2028",
    "\r",
]
_WORDS = [
    *"needle budget pruning tokens the a Dr. e.g. 3.14 v1.2 don't HTML running U.S.".split(),
    *"naïve Größe file.py 日本語の文です。 中文句子。 한국어 ไทย «quoted» (see".split(),
    *"below) end. really? no! so:".split(),
]
_SPACE = [" ", " ", " ", "\n", "\n\n", "\t", "  "]

words = st.sampled_from(_WORDS)
odd = st.sampled_from(_ODD)
spaces = st.sampled_from(_SPACE)
prose = st.lists(st.one_of(words, words, spaces, spaces), max_size=60).map("".join)
any_text = st.one_of(
    prose,
    st.text(st.characters(exclude_categories=()), max_size=80),
    st.lists(st.one_of(words, spaces, odd), max_size=60).map("".join),
)

_MARKDOWN = [
    "# Heading one\n", "## Needle\n", "Title\n=====\n",
    "\n", "\n", "- item about a needle\n", "* other item\n",
    "1. first step\n", "2. second step\n", "   continued line\n", "```\ncode = 1. + "
    "2.\n\nprint('x. Y')\n```\n",
    "```python\nunclosed fence. Needle.\n", "~~~\ntilde\n~~~\n", "    indented code. Two.\n", "| a | b |\n",
    "|---|---|\n", "| 1. Needle | 2. |\n", "> quoted text.\n", "A sentence ends here. Another one follows.\n",
    "A line that was wrapped by an editor at some "
    "seventy characters or\nso, and goes on.\n", "---\n", "no end",
]  # fmt: skip
markdown = st.lists(st.one_of(st.sampled_from(_MARKDOWN), prose), max_size=25).map("".join)
text = st.one_of(any_text, markdown)

_TAGS = (
    "div p span b i a ul ol li dl dt dd table tr td th thead "
    "tbody caption h1 h2 h3 pre code section article main "
    "header footer nav aside figure figcaption blockquote "
    "form label button select option em strong sub sup del ins "
    "q kbd center font details summary address body html head noscript svg object textarea title"
).split()
_ATTRS = [
    "", "", "", " class=x", ' class="a b"',
    " id='it\"s'", ' title="a > b"', " data-x", " tp-n=1", ' href="/a?b=1&c=2"',
    " style='color:red'", "\n  class = 'y'\n", " x=1 x=2",
    " / ", ' alt="<b>"', ' onclick="if (a<b && c>d) f()"',
]  # fmt: skip
_VOID = [
    "<br>",
    "<br/>",
    "<hr>",
    "<img src=x alt='not shown'>",
    "<input value=v>",
    "<wbr>",
    "<meta charset=utf-8>",
]
_GONE = [
    "<!-- comment -->", "<!---->",
    "<!-- a --!>", "<!doctype html>", "<script>var a = '<p>gone</p>';</script>",
    "<style>p > a { color: red }</style>", "<?php gone ?>", "<template><p>gone</p></template>",
    "<iframe>gone</iframe>", "<noframes>gone</noframes>", "<SCRIPT type='x'>gone</SCRIPT >",
]  # fmt: skip
_ENTITIES = [
    "&amp;",
    "&lt;b&gt;",
    "&quot;",
    "&nbsp;",
    "&eacute;",
    "&#39;",
    "&#x41;",
    "&amp;lt;",
    " & ",
    " < ",
    "a<3",
    ">",
]
html_words = st.one_of(words, st.sampled_from(["alpha", "beta", "gamma", "x", "y1"]))
tags = st.sampled_from(_TAGS)
start_tags = st.builds(lambda t, a: f"<{t}{a}>", tags, st.sampled_from(_ATTRS))
end_tags = tags.map(lambda t: f"</{t}>")
html_text = st.lists(st.one_of(html_words, spaces, st.sampled_from(_ENTITIES)), min_size=1, max_size=12).map(
    "".join
)


def _element(children):
    return st.builds(
        lambda t, a, c: f"<{t}{a}>{''.join(c)}</{t}>",
        tags,
        st.sampled_from(_ATTRS),
        st.lists(children, max_size=5),
    )


_leaves = st.one_of(html_text, html_text, st.sampled_from(_VOID), st.sampled_from(_GONE))
nested_html = st.recursive(_leaves, _element, max_leaves=25)
# Start and end tags in any order: what libxml2 has to repair.
tag_soup = st.lists(
    st.one_of(start_tags, start_tags, end_tags, html_text, html_text, _leaves), max_size=30
).map("".join)
_BROKEN = ["<", "</", "<a href='", "<div class=\"x", "<!--", "<!-- never closed", "<script>", "<p", "]]>",
           "<![CDATA[x]]>", "</p x=1>", "<plaintext>", "<title>",
           "<textarea>", "<123>", "<a/b>", "&#0;", "&bogus;"]  # fmt: skip
broken_html = st.lists(
    st.one_of(start_tags, end_tags, html_text, _leaves, st.sampled_from(_BROKEN), odd), max_size=25
).map("".join)
html = st.one_of(nested_html, tag_soup, broken_html)


class _Namespace(SimpleNamespace):
    def __repr__(self):  # hypothesis prints the arguments of a failing test: keep it short
        return "..."


@pytest.fixture(scope="session")
def strategies():
    """The strategies above by name."""
    return _Namespace(
        any_text=any_text,
        markdown=markdown,
        text=text,
        prose=prose,
        nested_html=nested_html,
        tag_soup=tag_soup,
        broken_html=broken_html,
        html=html,
        words=words,
    )


# -- an independent reading of HTML -------------------------------------------------------------------

_UNSEEN = ["script", "style", "template", "iframe", "noframes", "noembed"]
_BLOCKS = frozenset(
    "title h1 h2 h3 h4 h5 h6 p pre textarea listing blockquote "
    "ul ol li dl dt dd table caption thead tbody tfoot tr td"
    " th figcaption legend summary select optgroup option div "
    "section article main header footer nav aside figure form"
    " fieldset address hgroup search details dialog center hr br body head html noscript".split()
)


def soup_of(source):
    """BeautifulSoup on lxml, told to read text and not to guess an encoding."""
    with (
        warnings.catch_warnings()
    ):  # BeautifulSoup's advice about texts that look like XML or like a file name
        warnings.simplefilter("ignore", UnusualUsageWarning)
        soup = BeautifulSoup(sanitize(source), "lxml")
    # Words that stand in attributes, and are shown.
    for button in soup.find_all("input", type=re.compile("^(?:submit|button|reset)$", re.I), value=True):
        if button["value"].strip() and "<" not in button["value"]:
            button.insert_after(button["value"], soup.new_tag("input"))
    for group in soup.find_all("optgroup", label=True):
        group.insert(0, group["label"] if "<" not in group["label"] else "")
    for shadow in soup.find_all("template", shadowrootmode=True):
        shadow.name = "div"
        for said in shadow.find_all(string=True):
            said.replace_with(NavigableString(said))
    return soup


def _walk(node, out):
    for child in node.children:
        if isinstance(child, Tag):
            if child.name in _UNSEEN:
                continue
            gap = "\n" if child.name in _BLOCKS else ""
            out.append(gap)
            _walk(child, out)
            out.append(gap)
        elif type(child) in (NavigableString, CData):
            out.append(str(child))


def without_formats(text):
    """Text without characters that have no shape of their own: formats and variation selectors."""
    if text.isascii():
        return text
    shapes = (c for c in text if unicodedata.category(c) != "Cf" and not "\ufe00" <= c <= "\ufe0f")
    return "".join(c for c in shapes if not "\U000e0100" <= c <= "\U000e01ef")


def visible_text(source):
    """All visible text with white space folded; nothing is put between elements."""
    soup = soup_of(source)
    for gone in soup.find_all(_UNSEEN):
        gone.decompose()
    return " ".join(without_formats(soup.get_text()).split())


def visible_words(source):
    """Words as a reader sees them: the edge of a block and a line break end a word."""
    out = []
    _walk(soup_of(source), out)
    return without_formats("".join(out)).split()


# Where cleaning may part words by a space: the edges of boxes inside a line, and between two elements side by
# side in one without text of its own. Everywhere else white space is what it was.
_BOXES = frozenset(
    "audio button canvas embed img input keygen label meter mtd object progress svg text video".split()
)
_SIDES = frozenset("a abbr b bdi cite data dfn em font i output small span strong time tspan u".split())
_MAY_PART = "\x01"


def _is_text(node):
    return type(node) in (NavigableString, CData)


def _walk_softly(node, out, *, blocks):
    has_text = any(_is_text(c) and c.strip() for c in node.children)
    before = None
    for child in node.children:
        if isinstance(child, Tag):
            if child.name in _UNSEEN:
                continue
            gap = "\n" if blocks and child.name in _BLOCKS else ""
            gap += _MAY_PART if child.name in _BOXES or "-" in child.name else ""
            seam = not has_text and {child.name, before} <= _SIDES
            out.append(gap + _MAY_PART * seam)
            _walk_softly(child, out, blocks=blocks)
            out.append(gap)
            before = child.name
        elif _is_text(child):
            out.append(str(child))
            before = None if child.strip() else before


def same_words(out, page, *, blocks=True):
    """Whether a cleaned page has the words of the page, parted where they are or where they may be.

    Without ``blocks`` nothing is put between blocks on either side.
    """
    got = " ".join(visible_words(out)) if blocks else visible_text(out)
    return any(_softly_equal(got, page, blocks=blocks, described=told) for told in (False, True))


def _softly_equal(got, page, *, blocks, described):
    soup = soup_of(page)
    # What a picture says of itself is no text on the page. Where HTML breaks off the picture, it is a title of the
    # page; that is up to the parser, so both readings hold.
    for gone in () if described else soup.select("svg title, svg desc, svg metadata"):
        gone.decompose()
    parts = []
    _walk_softly(soup, parts, blocks=blocks)
    want = re.sub(rf"[\s{_MAY_PART}]*\s[\s{_MAY_PART}]*", " ", without_formats("".join(parts)))
    want = want.strip(" " + _MAY_PART)
    pattern = "".join(
        " ?" if part[0] == _MAY_PART else re.escape(part)
        for part in re.findall(rf"{_MAY_PART}+|[^{_MAY_PART}]+", want)
    )
    return re.fullmatch(pattern, got) is not None


def is_subsequence(part, whole):
    rest = iter(whole)
    return all(any(x == y for y in rest) for x in part)


def tree(source):
    """Tags and folded texts, nested; text that is only white space is left out."""

    def read(node):
        out = []
        for child in node.children:
            if isinstance(child, Tag):
                out.append((child.name, sorted(child.attrs.items()), read(child)))
            elif (
                folded := str(child) if node.name in ("pre", "textarea") else " ".join(str(child).split())
            ).strip():
                out.append(folded)
        return out

    return read(soup_of(source))


@pytest.fixture(scope="session")
def read_html():
    return _Namespace(
        soup=soup_of,
        text=visible_text,
        words=visible_words,
        same_words=same_words,
        tree=tree,
        is_subsequence=is_subsequence,
        blocks=_BLOCKS,
        without_formats=without_formats,
    )


# -- invariants of every result -----------------------------------------------------------------------


_DISPUTED = re.compile(r"""<plaintext|<[^>]*(?:$|="[^"]*$|='[^']*$)""", re.IGNORECASE)


def check_result(result, documents, limit=None):
    """Assert what must hold of every result, whatever the method; ``limit`` is the budget in tokens."""
    counter = get_counter()
    assert [d.id for d in result.documents] == [d.id or f"doc{n}" for n, d in enumerate(documents)]
    assert [r.document_id for r in result.receipts] == [d.id for d in result.documents]
    before = [counter.count(d.text) for d in documents]
    after = [counter.count(d.text) for d in result.documents]
    assert [r.tokens_before for r in result.receipts] == before
    assert [r.tokens_after for r in result.receipts] == after
    assert (result.tokens_before, result.tokens_after) == (sum(before), sum(after))
    json.dumps(result.to_dict(), allow_nan=False)
    for given, out, receipt, n_before, n_after in zip(
        documents, result.documents, result.receipts, before, after, strict=True
    ):
        assert (out.title, out.metadata) == (given.title, given.metadata)
        assert out.kind == given.kind or (given.kind, out.kind) == ("html", "text")
        assert result.restore(out.id) == given.text
        units = list(receipt.units)
        if n_after > n_before:  # only where the original would bring back what must go
            gone = {u.reason for u in units if not u.kept} - {"low-score", "over-budget"}
            assert given.kind == "html" and (out.kind == "text" or gone), "output longer than input"
        edges = [u.start for u in units] + [len(given.text)]
        if given.text:
            assert edges[0] == 0
        assert [u.end for u in units] == edges[1:], "units overlap or leave gaps"
        assert all(u.start < u.end for u in units)
        assert sum(u.tokens for u in units) == n_before
        assert all(u.stage and u.reason for u in units), "a unit without a stage or a reason"
        kept = [given.text[u.start : u.end] for u in units if u.kept]
        if given.kind != "html":
            assert out.text == "".join(kept)
        # Parsers disagree about a tag that never ends, and `unescape` about what <plaintext> shows.
        elif out.text != given.text and out.kind == "html" and not _DISPUTED.search(given.text):
            seen = "".join(visible_text(out.text).split())
            assert is_subsequence(seen, "".join(visible_text(given.text).split())), "a word was added"
            sources = without_formats(unescape(sanitize("".join(kept))))
            assert is_subsequence(seen, sources), "kept words stand outside the kept ranges"
    if limit is not None:
        assert sum(after) <= limit, "over the budget"
        if sum(before) <= limit and not any(
            u.reason in ("over-budget", "low-score") for r in result.receipts for u in r.units
        ):
            for given, out, receipt in zip(documents, result.documents, result.receipts, strict=True):
                assert out.text == given.text or given.kind == "html", "a text that fits was changed"
                if (
                    given.kind == "html"
                    and not any(u.reason.startswith("hidden") for u in receipt.units)
                    and "SECRET" not in given.text  # our name for hidden text
                    and not _DISPUTED.search(given.text)
                ):
                    seen, was = ("".join(visible_text(t).split()) for t in (out.text, given.text))
                    assert seen == was, "words are gone"


@pytest.fixture(scope="session")
def check():
    return check_result


# -- realistic inputs ---------------------------------------------------------------------------------

_TOPICS = {
    "Opening files": (
        "open() returns a file object and is most commonly used with two arguments, the path and the mode.",
        "The mode is 'r' when the file will only be read, "
        "'w' for writing, and 'a' opens the file for appending.",
        "It is good practice to use the with keyword, because the file is closed when its block is left.",
    ),
    "Sorting rows": (
        "Lists have a sort method that changes the list in "
        "place, and sorted builds a new list from any iterable.",
        "Both take a key function, called once on each element before the comparisons are made.",
        "Sorts are guaranteed to be stable: elements that compare equal keep their original order.",
    ),
    "Keeping a cache": (
        "A least recently used cache works best when the most recent calls predict the calls to come.",
        "If maxsize is None the cache can grow without bound, so a long running server should set a size.",
        "Call cache_clear to empty it, and cache_info to see hits, misses and the current size.",
    ),
    "Sending mail": (
        "An SMTP session is opened with the name of the host, and starttls must be called before login.",
        "The message is built from parts: plain text first, then the HTML version, then the attachments.",
        "A refused recipient raises an error that lists the refused addresses and the server's answers.",
    ),
    "Measuring time": (
        "perf_counter is the clock with the highest resolution and it includes the time spent sleeping.",
        "Only the difference between two calls means anything, since the zero of the clock is undefined.",
        "Use time_ns to avoid the loss of precision that a float brings for long periods.",
    ),
}


def build_page(copies=4, extra=""):
    """A page of documentation with the furniture pages have; about 450 tokens of text per copy."""
    body = []
    for n in range(copies):
        for topic, (first, second, third) in _TOPICS.items():
            body.append(
                f'<section id="s{n}"><h2 class="t">{topic}, part {n + 1}</h2>\n'
                f'<p class="lead">{first}</p>\n<p>{second} <a href="/x?{n}&amp;y=1">{third}</a></p>\n'
                f"<ul><li>Option <b>{n}</b>: the default.</li>\n<li>"
                f"Option {n + 10}: asks first.</li></ul></section>"
            )
    return (
        "<!DOCTYPE html>\n<html lang=en><head><meta charset=utf-8><title>Library notes</title>"
        "<style>p { margin: 0 }</style><script>var tracker = {\"a\": '<p>no</p>'};</script></head>\n<body>"
        '<nav><ul><li><a href="/">Home</a><li><a href="/index">Index</a></ul></nav><!-- generated -->\n'
        '<main><div class="wrap"><div class="inner"><h1>Library notes</h1>\n'
        "<table border=1><tr><th>Name<th>Since<th>Notes</tr><tr><td>open<td>1.0<td></td></tr>"
        "<tr><td>sorted<td>2.4<td>stable</tr></table>\n"
        "<pre>with open(path) as f:\n    for line in f:\n        print(line,  end='')\n</pre>\n"
        + "\n".join(body)
        + extra
        + "</div></div></main><footer>Last updated &copy; 2024</footer></body></html>"
    )


def build_prose(copies=4):
    """Plain text on the same topics, with headings and lists."""
    parts = []
    for n in range(copies):
        for topic, sentences in _TOPICS.items():
            parts.append(
                f"## {topic}, part {n + 1}\n\n"
                + " ".join(sentences)
                + f"\n\n- option {n}\n- option {n + 10}\n"
            )
    return "\n".join(parts)


@pytest.fixture(scope="session")
def warm_python(tmp_path_factory):
    """Run ``tokenprune``, code or a script as a process that need not import torch first."""
    with warm(tmp_path_factory.mktemp("warm")) as process:
        yield process


@pytest.fixture(scope="session")
def samples():
    return _Namespace(page=build_page, prose=build_prose, topics=_TOPICS)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """Build a tiny labeler: ``tiny(family, fresh=False, **options)``; one that is not fresh is shared."""
    from importlib import import_module

    builders = import_module("tests.models.labeler.checkpoints").BUILDERS
    made = {}

    def build(family, *, fresh=False, **options):
        key = (family, *sorted(options.items()))
        if not fresh and key in made:
            return made[key]
        checkpoint = builders[family](tmp_path_factory.mktemp(family) / "model", **options)
        if not fresh:
            made[key] = checkpoint
        return checkpoint

    return build
