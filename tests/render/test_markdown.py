"""Markdown: a CommonMark parser must read back what the HTML says."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from tokenprune.document import Document
from tokenprune.render.markdown import Markdown
from tokenprune.render.source import SameForm
from tokenprune.segment.html_blocks import HtmlBlocks
from tokenprune.segment.sentences import Sentences
from tokenprune.tokens import get_counter

PARSER = MarkdownIt("commonmark", {"maxNesting": 500}).enable(["table", "strikethrough"])


def html(page, max_words=64, attributes=()):
    return HtmlBlocks(max_words, attributes).segment(Document(page, kind="html"), get_counter())


def mask(units, keep):
    return np.ones(len(units), dtype=bool) if keep is None else np.asarray(keep, dtype=bool)


def markdown(page, keep=None, max_words=64, attributes=()):
    units = html(page, max_words, attributes)
    return Markdown().render(units, mask(units, keep)).text


class Read:
    """What a Markdown parser sees: words, code blocks, tables as lists of rows, links, block structure."""

    def __init__(self, text):
        self.text, self.fences, self.tables, self.links, self.shape = "", [], [], [], []
        for token in PARSER.parse(text):
            assert token.type not in ("html_block", "code_block", "hr"), (token.type, text)
            if token.type == "table_open":
                self.tables.append([])
            elif token.type == "tr_open":
                self.tables[-1].append([])
            if token.type == "inline":
                shown = self.inline(token)
                self.text += f"\n{shown}\n"
                if self.shape and self.shape[-1] in ("th", "td"):
                    self.tables[-1][-1].append(" ".join(shown.split()))
            elif token.type == "fence":
                assert not token.info
                self.fences.append(token.content)
                self.text += f"\n{token.content}\n"
            if token.nesting == 1 and not token.hidden:
                self.shape.append(token.tag)

    def inline(self, token):
        out = ""
        for child in token.children or ():
            if child.type in ("softbreak", "hardbreak"):
                out += "\n"
            elif child.type == "html_inline":
                assert child.content in ("<br>", "<del>", "</del>"), child.content
                out += "\n" if child.content == "<br>" else ""
            elif child.type == "image":
                self.links.append((child.attrs["src"], child.content))
            elif child.type == "link_open":
                self.links.append(child.attrs["href"])
            elif child.type in ("text", "code_inline"):
                out += child.content
            else:
                assert child.type in ("s_open", "s_close", "link_close"), child.type
        return out


def unquoted(text):
    """Words without the quotation marks of <q>, which only a browser shows."""
    return text.replace('"', "").split()


def draw_keep(data, units):
    return data.draw(st.lists(st.booleans(), min_size=len(units), max_size=len(units)), "keep")


# -- forms --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        ("", ""),
        ("<title>T</title><h1>H</h1><h6>h <code>x</code></h6><p>a</p>", "# T\n\n# H\n\n###### h `x`\n\na"),
        ("<p>a</p><title>T</title>", "a\n\nT"),
        ("<p>a<br>b &amp; c</p>", "a  \nb & c"),
        ("<h2>a<br>b</h2>", "## a b"),
        ("<ul><li>a<ul><li>b<ol><li>c</ol></ul><li>d</ul>", "- a\n  - b\n    1. c\n- d"),
        ("<ol>" + "<li>x" * 10 + "<p>y</ol>", "\n".join(f"{n}. x" for n in range(1, 11)) + "\n\n    y"),
        ("<ul><li><p>a<p>b<li><pre>c\n\nd</pre></ul>e", "- a\n\n  b\n- ```\n  c\n\n  d\n  ```\n\ne"),
        ("<blockquote>a<blockquote>b</blockquote><ul><li>c</ul></blockquote>", "> a\n>\n> > b\n>\n> - c"),
        ("<dl><dt>a<dd>b<dd>c<dt>d<dd>e</dl>", "a\n- b\n- c\n\nd\n- e"),
        ("<select><option>a<option>b</select>", "- a\n- b"),
        ("<pre>\n a &lt;b&gt;\n\n```\n</pre>", "````\n a <b>\n\n```\n````"),
        ("<p><code>a`b</code> <kbd>`</kbd> <samp> c </samp>d</p>", "``a`b`` `` ` `` `  c  `d"),
        ("<p><code>a</code><code>b</code></p>", "`ab`"),
        ("<p>10<sup>6</sup> x<sup>n+1</sup> 1<sup>st</sup> a<sup>[1]</sup></p>", "10^6 x^(n+1) 1st a[1]"),
        ("<p>H<sub>2</sub>O x<sub>i</sub> 10<sub>2</sub></p>", "H2O x_i 10_2"),
        ("<p><del>5</del> <ins>4</ins> <q>now</q> <del>(a)</del></p>", '~~5~~ 4 "now" <del>(a)</del>'),
    ],
)
def test_forms(page, expected):
    assert markdown(page) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # Nothing is escaped that need not be.
        (
            "a * b snake_case f(*args, **kw) 5 * [x] a[i] (b) x! &c R&amp;D; 1.5 a < b > c a|b ~5 C:\\dir #1 - + =",
            None,
        ),
        ("__init__", "__init\\_\\_"),
        ("*a* and *b*", "*a\\* and *b\\*"),
        ("a `b`", "a \\`b\\`"),
        ("[a](b)", "[a\\](b)"),
        ("a<b> <c", "a\\<b> <c"),
        ("&amp;lt;", "\\&lt;"),
        ("a \\* b\\", "a \\\\* b\\"),
        ("1. a", "1\\. a"),
        ("- a", "\\- a"),
        ("# a", "\\# a"),
        ("--- | ---", "\\--- | ---"),
        ("[a]: b", "\\[a]: b"),
    ],
)
def test_escapes(text, expected):
    page = f"<p>{text.replace('<', '&lt;')}</p>"
    assert markdown(page) == (expected if expected is not None else text.replace("&amp;", "&"))


def test_links_and_images():
    page = (
        '<p>See <a href="/a b?x=1&amp;y=(2">the [best] page</a>, <a href="/c"><img alt="A | B" src="i.png"></a>, '
        '<a>none</a> wow!<a href="d">e</a> <a href="f"><h3>block</h3></a></p>'
    )
    text = markdown(page, attributes=("href", "src", "alt"))
    read = Read(text)
    assert read.links == ["/a%20b?x=1&y=(2", "/c", ("i.png", "A | B"), "d", "f"]
    assert read.text.split() == "See the [best] page, , none wow!e block".split()
    assert "](" not in markdown(page)


def test_a_row_without_its_header_gets_an_empty_one():
    page = "<table><tr><td>a b<td>c d</tr><tr><td>e f<td>g h</tr><tr><th>i j<th>k l</tr></table>"
    assert markdown(page, [1, 1, 0], 2) == "| a b | c d |\n|---|---|\n| e f | g h |"
    assert markdown(page, [0, 1, 0], 2) == "| | |\n|---|---|\n| e f | g h |"
    assert markdown(page, [0, 0, 1], 2) == "| i j | k l |\n|---|---|"
    assert Read(markdown(page, [0, 1, 1], 2)).tables == [[["", ""], ["e f", "g h"], ["i j", "k l"]]]


def test_a_footer_is_no_header():
    head = "<thead><tr><th>A<th>B</thead>"
    page = "<table><tfoot><tr><td>All<td>3</tfoot>{}<tbody><tr><td>x<td>1</table>"
    assert Read(markdown(page.format(head))).tables == [[["", ""], ["All", "3"]], [["A", "B"], ["x", "1"]]]
    assert Read(markdown(page.format(""))).tables == [[["", ""], ["All", "3"], ["x", "1"]]]


def test_cells_hold_a_line_each():
    page = (
        "<table><caption>All</caption><tr><th colspan=2>A<th>B</tr><tr><td>a|b<br>c<td><p>d</p><p>e</p>"
        "<td><ul><li>f<li>g</ul></tr><tr><td><code>h|i</code><td><table><tr><td>j<td>k</table></tr></table>l"
    )
    assert markdown(page, attributes=("colspan",)) == (
        "All\n\n| A | | B |\n|---|---|---|\n| a\\|b<br>c | d e | f<br>g |\n| `h\\|i` | j k |\n\nl"
    )


def test_a_table_that_lays_out_a_page_is_no_table():
    page = "<table><tr><td><h2>A</h2><pre>x\n y</pre><td><table><tr><th>B<tr><td>c</table></table>"
    assert markdown(page) == "## A\n\n```\nx\n y\n```\n\n| B |\n|---|\n| c |"


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("<pre>p1\np2</pre>", "`p1`<br>`p2`"),
        ("a<pre>\np1\n\n  p2|\n</pre>b", "a `p1`<br><br>`  p2\\|`<br>b"),
        ("<pre><code>p1\n<b>p`2</b></code>\np3</pre>", "`p1`<br>``p`2``<br>`p3`"),
        ("<pre>p1<br>p2\n</pre><pre>p3</pre>", "`p1`<br>`p2`<br>`p3`"),
        ("<h3>H</h3><p>text</p>", "H text"),
        ("<pre>\n\n</pre>", ""),
    ],
)
def test_a_table_with_a_header_stays_one(cell, expected):
    head = "<tr><th>a<th>b"
    for page in (f"{head}<tr><td>x<td>{cell}", f"<thead><tr><td>a<td>b</thead><tbody><tr><td>x<td>{cell}"):
        text = markdown(f"<table>{page}</table>")
        assert text == f"| a | b |\n|---|---|\n| x | {f'{expected} ' if expected else ''}|"
        assert len(Read(text).tables) == 1


def test_the_table_around_one_with_a_header_may_lay_out():
    page = "<table><tr><td><h2>A</h2><td><table><tr><th>B<th>C<tr><td><pre>d\n e</pre><td>f</table></table>"
    assert markdown(page) == "## A\n\n| B | C |\n|---|---|\n| `d`<br>` e` | f |"


def test_items_keep_their_numbers():
    page = "<ol><li>one two<li>three four<ol><li>a b<li>c d</ol><li>five six</ol>"
    assert markdown(page, [1, 0, 0, 0, 1], 2) == "1. one two\n3. five six"
    assert markdown(page, [0, 1, 0, 1, 1], 2) == "2. three four\n\n   2. c d\n3. five six"
    assert [tag for tag in Read(markdown(page, [0, 1, 0, 1, 1], 2)).shape if tag != "p"] == [
        "ol",
        "li",
        "ol",
        "li",
        "li",
    ]


def test_words_around_what_is_dropped_stay_apart():
    page = "<p>one two <code>three</code><code>four</code> five six</p>"
    units = html(page, 1)
    for n in range(len(units)):
        keep = [m != n for m in range(len(units))]
        assert set(Read(markdown(page, keep, 1)).text.split()) <= {
            "one",
            "two",
            "three",
            "four",
            "threefour",
            "five",
            "six",
        }


def test_text_documents_pass_unchanged():
    units = Sentences().segment(Document("# One. *Two*. | Three |", kind="text"), get_counter())
    for keep in ([True] * len(units), [False] + [True] * (len(units) - 1)):
        kept = mask(units, keep)
        assert Markdown().render(units, kept).text == SameForm().render(units, kept).text


def test_output_is_text():
    units = html("<p>a</p>")
    assert Markdown().render(units, mask(units, None)).kind == "text"


# -- the same words -----------------------------------------------------------------------------------

RISKY = (
    "* ** _ __ ` `` ~ ~~ ~~~ # ## ### > - -- --- + = === | || \\ \\* ! ![ [ ] [x] [x](y) ](z) []: [a]: <b> </b> <!-- "
    "< > & &amp; &copy; &#35; 1. 2) 10. *args **kw __init__ a_b a*b* _x_ http://x.y/_z_ <http://x> - - - *** ___ "
    "|-|-| :-: $x$ ^ { } \\\\ \\| \\` 5* f(*a) (*) !! `a` word tail. 日本_語 «*q*» €*"
).split()
ENTITY = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


def encode(text):
    return "".join(ENTITY.get(c, c) for c in text)


risky_text = st.lists(
    st.tuples(st.sampled_from(RISKY), st.sampled_from(["", " ", " ", " ", "\n"])).map("".join),
    min_size=1,
    max_size=8,
).map(lambda words: encode("".join(words)))
inline_tags = st.sampled_from(["code", "code", "kbd", "del", "ins", "q", "b", "a href='/u_(x'", "span"])
inline = st.recursive(
    st.one_of(risky_text, risky_text, st.just("<br>")),
    lambda inner: st.builds(
        lambda tag, parts: f"<{tag}>{''.join(parts)}</{tag.split()[0]}>",
        inline_tags,
        st.lists(inner, max_size=3),
    ),
    max_leaves=6,
)
lines = st.lists(inline, min_size=1, max_size=4).map("".join)
block_tags = st.sampled_from(
    ["p", "h1", "h3", "div", "blockquote", "ul|li", "ol|li", "ul", "li", "dl|dt", "dl|dd", "pre", "section"]
)
blocks = st.recursive(
    st.one_of(lines, lines.map(lambda t: f"<p>{t}</p>")),
    lambda inner: st.builds(
        lambda tag, parts: (
            "".join(f"<{t}>" for t in tag.split("|"))
            + "".join(parts)
            + "".join(f"</{t}>" for t in reversed(tag.split("|")))
        ),
        block_tags,
        st.lists(inner, min_size=1, max_size=3),
    ),
    max_leaves=8,
)
risky_pages = st.lists(blocks, min_size=1, max_size=4).map("".join)


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("<a href=/p><h3>Lamp</h3><p>180 lumens</p></a>", "### [Lamp](/p)\n\n180 lumens"),
        ("<a href=/p>New: <h3>Lamp</h3></a><p>a", "[New:](/p)\n\n### Lamp\n\na"),
        ("<a href=/p><div><p></p></div></a><p>a", "a"),
        ("<a href=/p><pre>a  b</pre><p>c</p></a>", "```\na  b\n```\n\n[c](/p)"),
        ("<ul><li><a href=/p><p>a</p></a><li>b</ul>", "- [a](/p)\n- b"),
        ("<a href=/p><p>a</p><a href=/q>b</a>", "[a](/p)\n\n[b](/q)"),
    ],
)
def test_a_link_around_blocks_is_that_of_its_first_line(page, text):
    units = html(page, attributes=("href",))
    assert Markdown().render(units, np.ones(len(units), dtype=bool)).text == text


def same_words(units, keep, read_html):
    kept = mask(units, keep)
    want = " ".join(read_html.words(SameForm().render(units, kept).text))
    text = Markdown().render(units, kept).text
    got = unquoted(Read(text).text)
    if keep is None:
        assert got == unquoted(want), text
    else:  # HTML has no white space where something between two inline elements was dropped
        assert "".join(got) == "".join(unquoted(want)), text


@given(data=st.data())
@settings(max_examples=150)
def test_words_of_pages_full_of_signs(data, read_html):
    page = data.draw(risky_pages)
    attributes = data.draw(st.sampled_from([(), ("href",)]))
    units = html(page, data.draw(st.sampled_from([2, 8, 64])), attributes)
    same_words(units, None, read_html)


@given(data=st.data())
@settings(max_examples=100)
def test_words_of_some_units(data, read_html):
    """Whatever is kept, all of it is read back, and nothing else."""
    page = data.draw(st.one_of(risky_pages))
    units = html(page, data.draw(st.sampled_from([1, 3, 12])))
    same_words(units, draw_keep(data, units), read_html)


@given(data=st.data())
@settings(max_examples=100)
def test_words_of_any_page(data, strategies, read_html):
    """Tag soup and broken pages: every letter of the HTML output, in order; signs of markup aside."""
    page = data.draw(st.one_of(strategies.nested_html, strategies.html))
    units = html(page, data.draw(st.sampled_from([2, 8, 64])))
    keep = mask(units, draw_keep(data, units))
    page = SameForm().render(units, keep).text
    text = Markdown().render(units, keep).text
    read = read_html.without_formats(Read(text).text).split()  # as `words` reads

    def bare(words):
        return re.sub(r'["^_()\ufeff]', "", "".join(words))

    def formats(output):
        return [c for c in output if c != "\ufeff" and not read_html.without_formats(c)]

    assert bare(read) == bare(read_html.words(page)), text
    assert formats(text) == formats(page)  # joiners of emoji and of scripts


# -- code ---------------------------------------------------------------------------------------------

code_lines = st.sampled_from(
    [
        "x",
        "  y = 1",
        "\tz",
        "",
        "",
        "   ",
        "```",
        "````",
        "~~~",
        "- a",
        "# b",
        "> c",
        "1. d",
        "&amp;e",
        "<f&gt;",
    ]
)
wrappers = st.sampled_from(
    ["ul|li", "ol|li", "blockquote", "dl|dd", "div", "ul|li|ol|li", "blockquote|ul|li"]
)


@given(data=st.data())
@settings(max_examples=100)
def test_code_is_the_same_character_by_character(data):
    codes, page = [], ""
    for _ in range(data.draw(st.integers(1, 3))):
        code = "\n".join(data.draw(st.lists(code_lines, min_size=1, max_size=6)))
        wrapper = data.draw(wrappers).split("|")
        page += f"<{'><'.join(wrapper)}><p>words</p><pre>\n{encode(code)}</pre></{'></'.join(wrapper[::-1])}>"
        if code.strip():
            codes.append(code if code.endswith("\n") else code + "\n")
    assert Read(markdown(page, max_words=1000)).fences == codes


# -- tables -------------------------------------------------------------------------------------------

cell_text = st.one_of(st.just(""), lines, st.lists(risky_text, min_size=2, max_size=3).map("<p>".join))


@given(data=st.data())
@settings(max_examples=150)
def test_rows_and_cells_are_the_same(data, read_html):
    rows = data.draw(st.lists(st.lists(cell_text, min_size=1, max_size=4), min_size=1, max_size=5))
    head = data.draw(st.sampled_from(["td", "th"]))
    page = "<table>"
    for n, row in enumerate(rows):
        tag = "td" if n else head
        page += "<tr>" + "".join(f"<{tag}>{cell}</{tag}>" for cell in row) + "</tr>"
    wrapper = data.draw(st.sampled_from(["div", "ul|li", "blockquote", "ol|li|ul|li"])).split("|")
    page = f"<{'><'.join(wrapper)}>{page}</table></{'></'.join(wrapper[::-1])}>"
    units = html(page, 1)
    keep = mask(units, draw_keep(data, units))
    soup = read_html.soup(SameForm().render(units, keep).text)
    want = [
        ["".join(unquoted(cell.get_text())) for cell in row.find_all(["td", "th"])]
        for row in soup.find_all("tr")
    ]
    text = Markdown().render(units, keep).text
    (got,) = Read(text).tables if want else [[]]
    got = [["".join(unquoted(cell)) for cell in row] for row in got]
    if len(got) == len(want) + 1:  # the first row was dropped: an empty header
        assert not any(got.pop(0)), text
    if keep.all():
        columns = max(map(len, want))
        assert got == [row + [""] * (columns - len(row)) for row in want], text
    else:  # empty cells stand for cells that were dropped
        assert [list(filter(None, row)) for row in got] == [list(filter(None, row)) for row in want], text


def test_cells_stay_in_their_columns():
    page = "<table><tr><th>A<th>B<th>C</tr><tr><td>a b c<td>d e f<td>g h i</tr></table>"
    assert markdown(page, [1, 0, 0, 1], 2) == "| A | B | C |\n|---|---|---|\n| | | g h i |"
    assert markdown(page, [1, 0, 1, 0], 2) == "| A | B | C |\n|---|---|---|\n| | d e f |"
    assert markdown(page, [1, 1, 0, 1], 2) == "| A | B | C |\n|---|---|---|\n| a b c | | g h i |"


@pytest.mark.parametrize(
    ("code", "written"),
    [
        ("x  y", "`x  y`"),
        (" x", "` x`"),
        (" x ", "`  x  `"),
        ("a\n b", "`a  b`"),
        ("`x", "`` `x ``"),
        (" ` ", "``  `  ``"),
    ],
)
def test_white_space_in_code_stays(code, written):
    """As CommonMark reads it: line ends are spaces, and one space goes from both ends where both have one."""
    out = markdown(f"<p>a <code>{code}</code> b</p>")
    assert out == f"a {written} b"
    (inline,) = [t for t in PARSER.parse(out) if t.type == "inline"]
    assert [t.content for t in inline.children if t.type == "code_inline"] == [code.replace("\n", " ")]


@pytest.mark.parametrize(
    ("page", "written"),
    [
        ("<ol start=5><li>a<li>b</ol>", "5. a\n6. b"),
        ("<ol start=0><li>a<li>b</ol>", "0. a\n1. b"),
        ("<ol reversed><li>a<ol><li>x</ol><li>b</ol>", "2. a\n   1. x\n1. b"),
        ("<ol reversed start=9><li>a<li>b</ol>", "9. a\n8. b"),
        ("<ol><li>a<li value=7>b<li>c</ol>", "1. a\n7. b\n8. c"),
        ("<ol start=x><li value=y>a</ol>", "1. a"),
        ("<ol start=-3><li>a</ol>", "0. a"),
        ("<ol start=99999999999><li>a</ol>", "1. a"),
        ("<ol start=999999999><li>a<li>b</ol>", "999999999. a\n999999999. b"),
    ],
)
def test_items_keep_the_numbers_that_the_page_gives_them(page, written):
    assert markdown(page) == written


def test_dropped_items_count():
    page = "<ol start=3><li>one two three<li value=8>four five six<li>seven eight nine</ol>"
    assert markdown(page, keep=[False, False, True], max_words=3) == "9. seven eight nine"


@given(code=st.lists(code_lines, min_size=1, max_size=5), other=code_lines)
def test_code_in_cells_reads_back(code, other):
    rows = f"<tr><td><pre>\n{encode(chr(10).join(code))}</pre><td><pre>{encode(other)}</pre></tr>"
    read = Read(markdown(f"<table><tr><th>a<th>b</tr>{rows}</table>"))
    assert read.tables[0][1] == [" ".join(" ".join(code).split()), " ".join(other.split())]
