"""The block tree: granularity, leads, wrappers, and ranges of the source that hold what they say."""

from html import unescape

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenprune.document import Document
from tokenprune.render.markdown import Markdown
from tokenprune.render.text import PlainText
from tokenprune.segment.by_kind import ByKind
from tokenprune.segment.html_blocks import HtmlBlocks
from tokenprune.segment.html_ranges import partition
from tokenprune.segment.word_counts import word_count
from tokenprune.tokens import get_counter, sanitize
from tokenprune.units import GONE


def cut(page, max_words=64, **options):
    return HtmlBlocks(max_words, **options).segment(Document(page, kind="html"), get_counter())


def render(units, keep):
    return units.pieces.join(units.piece_mask(np.asarray(keep, dtype=bool))).text


def sources(units):
    """The source of each unit: its ranges joined."""
    text = units.document.text
    bounds = [*units.range_start.tolist(), len(text)]
    found = [""] * len(units)
    for n, owner in enumerate(units.range_owner.tolist()):
        if owner != GONE:
            found[owner] += text[bounds[n] : bounds[n + 1]]
    return found


def assert_ranges_hold_the_words(units, read_html):
    for text, source in zip(units.texts, sources(units), strict=True):
        letters = "".join(text.split())
        assert read_html.is_subsequence(letters, unescape(sanitize(source))), f"{text!r} is not in {source!r}"


@pytest.mark.parametrize(
    "page",
    [
        "<p>one</p><p>two</p><p>three</p>",
        "one<p>two</p>three<div>four</div>",
        "<div>one<p>two</p>three</div>",
        "<p>one<p>two<ul><li>three<li>four</ul>five",
        "<p>one</p><script>gone</script>two<!-- gone --><p>three</p>",
        "<p>one</p><script>gone</script><p>two</p>",
        "<p>one &amp; two</p><p>three &lt;b&gt;</p>",
        "<p>one</p>\n\n<div hidden>gone</div>two<p>three",
        "<table><tr><td>one</td><td>two</td></tr><tr><td>three</td></tr></table>",
        "<table><tr><td>one<tr>two<td>three</table>four",
        "<p>one</p><title>two</title>three<p>four</p>",
        "<form><p>one</p><form>two</form><p>three</p></form>",
        "<select><option>one<option>two</select>three",
        "<a href=x>one<a href=y>two<p>three",
        # libxml2 drops a second start tag of these, and with it the number it carries
        "<p>one</p><body class=x>two<p>three</p>",
        "<p>one</p><html lang=en>two<p>three</p>",
        "<p>one</p><head>two</head><p>three</p>",
        "<p>one</p><frameset>two<p>three</p>",
        "<pre>one\ntwo\n</pre><p>three</p>",
        "<ins>one<p>two</p></ins>three",
        "<b>one<p>two</b>three</p>four",
    ],
)
def test_each_range_holds_the_words_of_its_unit(page, read_html):
    units = cut(page, 1)
    assert len(units) > 1
    assert_ranges_hold_the_words(units, read_html)


@pytest.mark.parametrize(
    "sentence",
    [
        "日本語&nbsp;の文です。",
        "A&amp;B is R&#38;D,\n\n   and   more follows here. ",
        "word &lt;b&gt;&nbsp;word. ",
    ],
)
def test_ranges_of_a_long_paragraph_hold_the_words(sentence, read_html):
    """Entities and folded white space make the source longer than the text it stands for."""
    for count in (20, 60):
        units = cut(f"<p>{sentence * count}</p>", 16)
        assert len(units) > 3
        assert_ranges_hold_the_words(units, read_html)


@pytest.mark.parametrize("padding", range(1274, 1281))
def test_no_entity_is_cut(padding, read_html):
    """A blob without spaces is cut anywhere, but not inside an entity: both halves would be new words."""
    page = f"<p>{'x' * padding}&lt;b&gt;{'y' * 1700}</p>"
    units = cut(page, 64)
    assert len(units) > 1
    assert "".join(units.texts) == "x" * padding + "<b>" + "y" * 1700
    for n in range(len(units)):
        assert read_html.text(render(units, np.arange(len(units)) == n)) == units.texts[n]
        assert set(units.texts[n]) <= set("x<b>y")


@given(data=st.data())
def test_ranges_hold_the_words_in_any_page(data, strategies, read_html):
    page = data.draw(st.one_of(strategies.nested_html, strategies.tag_soup))
    assert_ranges_hold_the_words(cut(page, data.draw(st.integers(0, 5))), read_html)


@pytest.mark.parametrize("max_words", [4, 16, 64, 256])
def test_realistic_page(max_words, samples, read_html):
    page = samples.page(2)
    units = cut(page, max_words)
    assert_ranges_hold_the_words(units, read_html)
    everything = render(units, np.ones(len(units)))
    assert read_html.words(everything) == read_html.words(page)
    assert " ".join(units.texts).split() == read_html.words(page)
    assert int(units.cost.sum() + units.wrapper_cost.sum()) == get_counter().count(everything)


@pytest.mark.parametrize("max_words", [16, 64])
def test_granularity(max_words, samples):
    """Units are at most as long as asked for, or one row of a table (three times) or one sentence."""
    units = cut(samples.page(3), max_words)
    assert max(map(word_count, units.texts)) <= max(max_words, 24)
    assert len(units) > word_count(" ".join(units.texts)) / max_words


@given(data=st.data())
def test_ranges_partition_any_page(data, strategies):
    page = data.draw(strategies.html)
    units = cut(page, data.draw(st.integers(0, 8)))
    starts = units.range_start.tolist()
    assert (starts[:1] == [0]) == bool(page)
    assert starts == sorted(set(starts))
    assert all(s < len(page) for s in starts)
    assert set(units.range_owner.tolist()) <= {GONE, *range(len(units))}
    reasons = zip(units.range_owner.tolist(), units.range_reason, strict=True)
    assert all((owner == GONE) == bool(reason) for owner, reason in reasons)


@given(data=st.data())
def test_any_choice_of_units_is_well_nested(data, strategies, read_html):
    """Whatever is kept: tags are balanced, and the words are those of the kept units."""
    page = data.draw(strategies.nested_html)
    units = cut(page, data.draw(st.integers(1, 4)))
    keep = data.draw(st.lists(st.booleans(), min_size=len(units), max_size=len(units)))
    kept = np.asarray(keep, dtype=bool)
    mask = units.piece_mask(kept)
    stack = []
    for text, tag, shown in zip(units.pieces.text, units.pieces.tag.tolist(), mask.tolist(), strict=True):
        if tag and shown and not text.startswith(("<br", "<img")):
            name = text.strip("</>").split()[0]
            if text.startswith("</"):
                assert stack.pop() == name
            else:
                stack.append(name)
    assert stack == []
    letters = "".join("".join(t.split()) for t, k in zip(units.texts, keep, strict=True) if k)
    assert "".join(read_html.text(render(units, kept)).split()) == letters


def test_small_elements_stay_whole_and_large_ones_are_split():
    page = "<div><p>one two three</p><p>four five</p></div>"
    assert cut(page, 5).texts == ["one two three four five"]
    assert cut(page, 4).texts == ["one two three", "four five"]
    assert cut(page, 0).texts == cut(page, 1).texts  # a granularity below one word means one


def test_bare_text_between_blocks_is_a_unit():
    assert cut("<div>bare one<p>block</p>bare two</div>", 2).texts == ["bare one", "block", "bare two"]


def test_inline_elements_do_not_split_a_line():
    assert cut("<div><p>a <b>b</b> <code>c</code></p><p>d</p></div>", 3).texts == ["a b c", "d"]


def test_kept_attributes_do_not_split_a_line():
    """A link inside a sentence stays part of its line when its href is kept."""
    page = "<div><p>one two <a href=x>three</a> four.</p><p>five</p></div>"
    assert cut(page, 4, keep_attributes=("href",)).texts == ["one two three four.", "five"]


def test_long_paragraph_is_cut_between_sentences():
    sentences = [f"Sentence number {n} has exactly seven words. " for n in range(12)]
    units = cut(f"<p>{''.join(sentences)}</p>", 14)
    assert [t + " " for t in units.texts] == ["".join(sentences[n : n + 2]) for n in range(0, 12, 2)]


def test_long_paragraph_with_inline_markup_is_cut_between_sentences(read_html):
    page = (
        "<p>"
        + "".join(f"Sentence <b>number {n}</b>  has &amp; exactly\n seven <i>words.</i> " for n in range(12))
        + "</p>"
    )
    units = cut(page, 16)
    assert len(units) == 6
    assert all(t.endswith("words.") for t in units.texts)
    assert_ranges_hold_the_words(units, read_html)


@pytest.mark.parametrize("code", ["<pre>{}</pre>", "<pre><code>{}</code></pre>"])
def test_pre_is_cut_between_lines(code):
    lines = "".join(f"line {n} of. The code\n" for n in range(10))
    units = cut(code.format(lines), 10)
    assert all(t.startswith("line") for t in units.texts)
    assert len(units) == 5
    assert render(units, np.ones(5)) == code.format(lines)
    assert render(units, [0, 1, 0, 0, 0]) == code.format("line 2 of. The code\nline 3 of. The code\n")


def test_dropping_a_block_does_not_join_its_neighbours(read_html):
    units = cut("<div>alpha<p>beta</p>gamma</div>", 1)
    assert read_html.words(render(units, [1, 0, 1])) == ["alpha", "gamma"]


def test_rows_stay_whole():
    row = "".join(f"<td>a{n} b{n}</td>" for n in range(5))
    page = f"<table>{''.join(f'<tr>{row}</tr>' for _ in range(4))}</table>"
    units = cut(page, 5)
    assert [len(t.split()) for t in units.texts] == [10] * 4
    assert render(units, [0, 1, 0, 0]) == f"<table><tr>{row}</table>".replace("</td>", "")


ROW = (
    "<table><tr>"
    + "".join(f"<td>{w}</td>" for w in ("a b", "c d", "", "e f", "", "g h", ""))
    + "</tr></table>"
)


@pytest.mark.parametrize(
    ("keep", "expected"),
    [
        # what stands behind the last kept cell costs nothing; an empty cell goes with the one before it
        ([1, 1, 1, 1], "<table><tr><td>a b<td>c d<td><td>e f<td><td>g h<td></table>"),
        ([0, 0, 1, 0], "<table><tr><td><td><td><td>e f<td></table>"),
        ([1, 0, 0, 1], "<table><tr><td>a b<td><td><td><td><td>g h<td></table>"),
        ([1, 0, 0, 0], "<table><tr><td>a b</table>"),
        ([0, 0, 0, 0], ""),
    ],
)
def test_cells_keep_their_columns(keep, expected, read_html):
    units = cut(ROW, 2)
    assert units.texts == ["a b", "c d", "e f", "g h"]
    out = render(units, keep)
    assert out == expected
    cells = [c.get_text() for c in read_html.soup(out).find_all("td")]
    shown = [t if k else "" for t, k in zip(["a b", "c d", "e f", "g h"], keep, strict=True)]
    whole = [shown[0], shown[1], "", shown[2], "", shown[3], ""]
    assert cells == whole[: len(cells)]
    assert not any(whole[len(cells) :])


def test_columns_in_every_form():
    units = cut(ROW, 2)
    mask = np.array([0, 0, 1, 0], dtype=bool)
    assert PlainText().render(units, mask).text == "\t\t\te f"
    assert [c.strip() for c in Markdown().render(units, mask).text.split("\n")[0].split("|")[1:5]] == [
        "",
        "",
        "",
        "e f",
    ]


def test_large_cells_and_rows_of_many_cells():
    inner = "<table><tr><td>i i j<td>k k l<td>m m n</table>"
    units = cut(f"<table><tr><td><p>a b</p><p>c d</p></td><td>{inner}</td><td>e f</td></tr></table>", 2)
    assert units.texts == ["a b", "c d", "i i j", "k k l", "m m n", "e f"]
    assert render(units, [0, 1, 0, 0, 0, 1]) == "<table><tr><td><p>c d<td><td>e f</table>"
    assert (
        render(units, [0, 0, 0, 0, 1, 0]) == "<table><tr><td><td><table><tr><td><td><td>m m n</table></table>"
    )
    assert all(up < n for n, up in enumerate(units.wrapper_parent.tolist()))
    many = cut("<table><tr>" + "<td>a b" * 1000 + "</table>", 2)
    mask = np.zeros(1000, dtype=bool)
    mask[999] = True
    assert render(many, mask) == "<table><tr>" + "<td>" * 64 + "<td>a b</table>"


@given(
    cells=st.lists(
        st.sampled_from(["", "one", "one two three", "<p>a b</p><p>c</p>", "<code>x</code> y"]), max_size=9
    ),
    data=st.data(),
)
def test_columns_of_any_row(cells, data, read_html):
    page = f"<table><tr>{''.join(f'<td>{c}</td>' for c in cells)}</tr></table>"
    units = cut(page, 1)
    keep = np.asarray(
        data.draw(st.lists(st.booleans(), min_size=len(units), max_size=len(units))), dtype=bool
    )
    given_words = [read_html.words(c) for c in cells]
    for brief in (True, False):
        out = units.pieces.join(units.piece_mask(keep), brief=brief).text
        found = [c.get_text(" ").split() for c in read_html.soup(out).find_all("td")]
        assert all(read_html.is_subsequence(a, b) for a, b in zip(found, given_words, strict=False))
        assert sum(map(len, found)) == len(
            " ".join(t for t, k in zip(units.texts, keep, strict=True) if k).split()
        )
    if keep.all() and any(given_words):
        assert len(found) == len(cells)


def leads(units):
    """Text of what leads each unit; None for nothing."""
    return [None if up < 0 else units.texts[up] for up in units.lead.tolist()]


def test_headings_lead():
    page = "<h1>H1</h1><p>a</p><h2>H2</h2><p>b</p><h3>H3</h3><p>c</p><h2>H2b</h2><p>d</p><p>e</p>"
    units = cut(page, 1)
    assert leads(units) == [None, "H1", "H1", "H2", "H2", "H3", "H1", "H2b", "H2b"]
    assert units.context == ["", "H1", "H1", "H1 H2", "H1 H2", "H1 H2 H3", "H1", "H1 H2b", "H1 H2b"]


@pytest.mark.parametrize(
    "around", ["<header>{}</header>", "<div>\n<header> {} </header></div>", "<hgroup>{}</hgroup>"]
)
def test_heading_in_an_element_of_its_own_leads(around):
    """As it does without: the same leads for the same texts."""
    page = "{}<p>a</p><div>{}<p>b</p></div><p>c</p>{}<p>d</p>"
    heads = "<h1>H1</h1>", "<h2>H2</h2>", "<h2>H2b</h2>"
    wrapped = cut(page.format(*map(around.format, heads)), 1)
    assert leads(wrapped) == leads(cut(page.format(*heads), 1)) == [None, "H1", "H1", "H2", "H2", "H1", "H2b"]


def test_heading_beside_words_is_no_heading_of_what_follows():
    page = "<header><h1>H</h1><p>by me</p></header><p>a b c</p><header>x <h2>y</h2></header><p>d e f</p>"
    assert leads(cut(page, 3)) == [None] * 4


def test_title_leads():
    assert leads(cut("<title>T</title><p>a</p><h1>H</h1><p>b</p>", 1)) == [None, "T", "T", "H"]


def test_header_row_leads_its_table_only():
    page = (
        "<table><caption>C</caption><tr><th>A<th>B</tr><tr>"
        "<td>1<td>2</tr><tr><td>3<td>4</tr></table><p>after</p>"
    )
    assert leads(cut(page, 1)) == [None, "C", "A B", "A B", None]


ROWS = "<tr><td>1<td>2</tr><tr><td>3<td>4</tr>"
AB = "<tr><th>A<th>B</tr>"


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        (f"<thead>{AB}</thead><tbody>{ROWS}</tbody>", [None, "A B", "A B"]),
        (f"<colgroup><col><col></colgroup><thead>{AB}</thead><tbody>{ROWS}</tbody>", [None, "A B", "A B"]),
        (f"<caption>C</caption><thead>{AB}</thead><tbody>{ROWS}</tbody>", [None, "C", "A B", "A B"]),
        # every row of a thead, which may be too long for one unit
        (f"<thead>{AB + AB}</thead><tbody>{ROWS}</tbody>", [None, "A B", "A B", "A B"]),
        (f"<thead><tr><th>G{AB}</thead>{ROWS}", [None, "G A B", "G A B"]),
        (f"<thead>{AB}</thead>{AB}{ROWS}", [None, "A B", "A B", "A B"]),
        # a footer is no header, wherever it stands
        (f"<tfoot><tr><td>T<td>9</tr></tfoot><thead>{AB}</thead>{ROWS}", [None, None, "A B", "A B"]),
        (f"<tfoot><tr><td>T<td>9</tr></tfoot><tbody>{AB}{ROWS}</tbody>", [None, None, "A B", "A B"]),
        # without a thead it is the first row
        (f"<tbody>{AB}</tbody><tbody>{ROWS}</tbody><tbody>{ROWS}</tbody>", [None, *["A B"] * 4]),
        ("<tr><th>A<th>B</tr><tr><th>x<td>1</tr><tr><th>y<td>2</tr>", [None, "A B", "A B"]),
        # ... the rows of th above the data
        (f"<tr><th>G{AB}{ROWS}", [None, "G", "A B", "A B"]),
        (f"<tr><th>G<th>H{AB}{ROWS}", [None, "G H", "A B", "A B"]),
        (f"{AB}<tr><td>1<td>2</tr><tr><th>x<th>y</tr><tr><td>3<td>4</tr>", [None, *["A B"] * 3]),
        # ... nothing, where nothing is in it
        (f"<thead><tr><th><th></tr></thead><tbody>{ROWS}</tbody>", [None, None]),
        # a row of the header that is too long for a unit has no stand-in
        (f"<tr><th>{'a ' * 4}<th>b</tr>{ROWS}", [None, None, None, None]),
    ],
)
def test_header_rows_lead(table, expected):
    units = cut(f"<table>{table}</table>", 1)
    found = [lead for lead, text in zip(leads(units), units.texts, strict=True) if text]
    assert found == expected


def test_tables_in_a_table_have_their_own_headers():
    inner = f"<table><thead><tr><th>I<th>J</tr></thead><tbody>{ROWS}</tbody></table>"
    row = f"<tr><td>x y<td>{inner}</tr><tr><td>5<td>6</tr>"
    units = cut(f"<table><thead>{AB}</thead><tbody>{row}</tbody></table>", 1)
    found = dict(zip(units.texts, leads(units), strict=True))
    assert found == {"A B": None, "x y": "A B", "I J": "A B", "1 2": "I J", "3 4": "I J", "5 6": "A B"}


def test_all_rows_of_a_header_come_along():
    """A row brings the nearest of them, and this those above it."""
    head = f"<tr>{'<th>one two three' * 2}</tr><tr>{'<th>four five six' * 2}</tr>"
    for table in (f"<thead>{head}</thead><tbody>{ROWS}</tbody>", head + ROWS):
        units = cut(f"<table>{table}</table>", 2)
        assert units.along.tolist() == [False, True, False, False]
        assert units.lead.tolist() == [-1, 0, 1, 1]


def test_sentence_before_a_list_leads_it():
    page = "<p>Options:</p><ul><li>one</li><li>two</li></ul><p>after</p>"
    assert leads(cut(page, 1)) == [None, "Options:", "Options:", None]
    assert leads(cut("<p>Text.</p><ul><li>one</li><li>two</li></ul>", 1)) == [None, None, None]


def test_term_leads_its_meaning():
    page = "<dl><dt>t1</dt><dd>m1</dd><dd>m2</dd><dt>t2</dt><dd>m3</dd></dl><p>after</p>"
    assert leads(cut(page, 1)) == [None, "t1", "t1", None, "t2", None]


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        # a few words of terms and meanings are one unit
        ("<dl><dt>a b</dt><dd>c</dd><dt>d</dt><dt>e</dt><dd>f</dd></dl>", {"a b c": None, "d e f": None}),
        ("<dl><dt>a</dt><dd>b</dd> <dd>c</dd><dt>d e</dt> <dd>f</dd></dl>", {"a b c": None, "d e f": None}),
        # terms in front of a long meaning are one
        (
            "<dl><dt>a</dt><dt>b</dt><dd>c d</dd><dd>e f</dd><dt>g</dt><dd>h i j</dd></dl><p>k</p>",
            {"a b": None, "c d": "a b", "e f": "a b", "g": None, "h i j": "g", "k": None},
        ),
        # in groups, and behind their list
        (
            "<dl><div><dt>a</dt><dd>c d e</dd></div><div><dt>g</dt><dd>h i j</dd></div></dl><p>k</p>",
            {"a": None, "c d e": "a", "g": None, "h i j": "g", "k": None},
        ),
        (
            "<dl><div><dt>a</dt><dd>c d e</dd></div><div><dt>g</dt><dd>h</dd></div><p>i</p></dl>",
            {"a": None, "c d e": "a", "g h": None, "i": None},
        ),
        # a term that is too long for one unit has no stand-in
        ("<dl><dt>a</dt><dd>b c d</dd><dt>e. f g h.</dt><dd>i j k</dd></dl>", None),
        # all of what introduces the list, in a list or table as well
        (
            "<p>All:</p><dl><dt>a</dt><dd>c d e</dd><dt>g</dt><dd>h i j</dd></dl>",
            {"All:": None, "a": "All:", "c d e": "a", "g": "All:", "h i j": "g"},
        ),
        (
            "<table><tr><th>A</th><th>B</th></tr><tr><td><dl><dt>a</dt><dd>b c d</dd><dt>e</dt><dd>f g h</dd></dl>"
            "<td>i j k l</tr><tr><td>m<td>n</tr></table>",
            {"A B": None, "a": "A B", "b c d": "a", "e": "A B", "f g h": "e", "i j k l": "A B", "m n": "A B"},
        ),
    ],
)
def test_terms_lead_what_they_mean(page, expected):
    units = cut(page, 3)
    found = dict(zip(units.texts, leads(units), strict=True))
    if expected is None:
        assert found["i j k"] != "a"
        return
    assert {text: up for text, up in found.items() if text in expected} == expected
    led = {up for up in expected.values() if up and up not in ("All:", "A B")}
    assert {t for t, term in zip(units.texts, units.term.tolist(), strict=True) if term} == led


def test_leads_come_first(samples):
    units = cut(samples.page(2), 8)
    assert all(up < n for n, up in enumerate(units.lead.tolist()))
    assert all(up < n for n, up in enumerate(units.wrapper_parent.tolist()))


def test_long_context_is_cut_from_the_left():
    units = cut(f"<h1>{'x' * 290}</h1><h2>{'y' * 40}</h2><p>a</p>", 32)
    assert len(units.context[2]) == 300
    assert units.context[2].endswith("y" * 40)


def test_wrappers_are_rendered_around_what_is_kept():
    units = cut("<ul><li>one</li><li>two</li></ul><ol><li>three</li><li>four</li></ol>", 1)
    assert render(units, [0, 1, 0, 0]) == "<ul><li>two</ul>"
    assert render(units, [0, 0, 1, 1]) == "<ol><li>three<li>four</ol>"
    assert render(units, [0, 0, 0, 0]) == ""
    assert units.open_wrappers(np.array([0, 0, 1, 0], dtype=bool)).tolist() == [False, True]


@pytest.mark.parametrize("page", ["", " \n", "<script>x</script>", "<!-- x -->", "<div></div>", "<br>"])
def test_pages_without_words(page):
    units = cut(page)
    assert units.texts == []
    assert set(units.range_owner.tolist()) <= {GONE}
    assert (units.range_start.tolist()[:1] == [0]) == bool(page)


def test_by_kind_takes_smaller_blocks():
    page = "<div>" + "".join(f"<p>{'word ' * 20}</p>" for _ in range(4)) + "</div>"
    assert [word_count(t) for t in ByKind().segment(Document(page, kind="html"), get_counter()).texts] == [
        20
    ] * 4


# -- partition ----------------------------------------------------------------------------------------


@st.composite
def layouts(draw):
    length = draw(st.integers(0, 30))
    places = st.integers(0, max(0, length - 1))
    begins = sorted(draw(st.lists(places, max_size=6))) if length else []
    edges = sorted(draw(st.sets(st.integers(0, length), max_size=8)))
    dropped = [(a, b, f"r{n}") for n, (a, b) in enumerate(zip(edges[::2], edges[1::2], strict=False))]
    return begins, dropped, length


@given(layouts())
def test_partition_equals_a_plain_loop(layout):
    begins, dropped, length = layout
    expected = []
    for at in range(length):
        gone = next((why for a, b, why in dropped if a <= at < b), None)
        owner = max([n for n, b in enumerate(begins) if b <= at] or [0]) if begins else GONE
        expected.append((GONE, gone) if gone else (owner, "" if begins else "empty"))
    starts, owners, reasons = partition(begins, dropped, length)
    assert len(starts) == len(owners) == len(reasons)
    bounds = [*starts.tolist(), length]
    assert bounds == sorted(set(bounds)) if length else bounds == [0]
    got = [
        (owner, why)
        for n, (owner, why) in enumerate(zip(owners.tolist(), reasons, strict=True))
        for _ in range(bounds[n], bounds[n + 1])
    ]
    assert got == expected
