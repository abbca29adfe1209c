"""Tags and texts of a page as it is written: places, what is dropped, and what libxml2 gets to repair."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenprune.segment.html_repair import NUMBER, marked, repaired
from tokenprune.segment.html_source import CLOSES, OPENS, scan
from tokenprune.segment.html_tags import attributes
from tokenprune.tokens import sanitize


def read(source):
    """What libxml2 reports of a page: (tag, number) of start tags, and texts."""
    page = scan(sanitize(source))
    events = repaired(page)
    starts = [
        (page.names[code >> 2], mark)
        for code, mark in zip(events.code, events.mark, strict=True)
        if code & 3 == OPENS
    ]
    return starts, [text for text in events.text if text]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("", {}),
        (" a=1 B='2' c=\"3\" d", {"a": "1", "b": "2", "c": "3", "d": ""}),
        (" a = 1\nb= '>' c =\"'\"", {"a": "1", "b": ">", "c": "'"}),
        (" a=1 a=2 A=3", {"a": "1"}),
        (" href=/x/y?a=b /", {"href": "/x/y?a=b"}),
        (" a=''", {"a": ""}),
    ],
)
def test_attributes(source, expected):
    assert attributes(source) == expected


def test_places():
    source = "<p class=a>one<b>two</b>three</p> <!-- c --><i>four"
    found = scan(source)
    ends = [*found.begin[1:], len(source)]
    places = [(source[b:t], source[t:e]) for b, t, e in zip(found.begin, found.after, ends, strict=True)]
    assert places == [
        ("", ""), ("<p class=a>", "one"), ("<b>", "two"), ("</b>", "three"), ("</p>", " "), ("<!-- c -->", ""),
        ("<i>", "four"),
    ]  # fmt: skip
    assert [found.attributes(k) for k in range(len(found.code))] == ["", " class=a", *[""] * 5]
    assert [found.names[code >> 2] for code in found.code if code & 3 == OPENS] == ["p", "b", "i"]
    assert [found.names[code >> 2] for code in found.code if code & 3 == CLOSES] == ["b", "p"]
    assert [(source[a:b], why) for a, b, why in found.dropped] == [("<!-- c -->", "comment")]


def test_page_cannot_forge_a_number():
    page = scan(f"<p {NUMBER}=7 a=b>x</p><!--3-->y")
    assert marked(page) == f"<p {NUMBER}=1 >x</p><!--3-->y"  # 3 is the comment's own number
    assert ("p", 1) in read(page.source)[0]


@pytest.mark.parametrize(
    ("source", "texts"),
    [
        ("<a title='x > y' b=c>one</a>", ["", "one", ""]),
        ('<a title="<b>">one</a>', ["", "one", ""]),
        ("<a b=c'd e='f>' g>one", ["", "one"]),
        ("1 < 2 <3 <> </a>two", ["1 < 2 <3 <> ", "two"]),
        ('<a ="x>y">z', ["", 'y">z']),
        ('<a b="c"="d>e">f', ["", 'e">f']),
        ("<p>a<x <y>b", ["", "a", "b"]),
    ],
)
def test_tags_end_where_the_standard_ends_them(source, texts):
    assert scan(source).text == texts


@pytest.mark.parametrize(
    ("source", "dropped"),
    [
        ("<script>a</script>b", [(0, 18, "script")]),
        ("<SCRIPT>a</Script >b", [(0, 19, "script")]),
        ("<script>a</scripty>b", [(0, 20, "script")]),
        ("<style>a", [(0, 8, "style")]),
        ("<template><template>a</template>b</template>c", [(0, 44, "template")]),
        ("<template><script>'</template>'</script>b</TEMPLATE x>c", [(0, 54, "template")]),
        ("<template><!-- </template> -->b</template>c", [(0, 42, "template")]),
        ("<template>a<script>b</template>c", [(0, 32, "template")]),
        ("a<!-- b", [(1, 7, "comment")]),
        ("a<!-->b", [(1, 6, "comment")]),
        ("<!DOCTYPE html>a", [(0, 15, "declaration")]),
        ("<![CDATA[a]]>b", [(0, 13, "declaration")]),
        ("</ x>a", [(0, 5, "declaration")]),
        ("<scripty>a</scripty>", []),
        ("a < b <3 <-", []),
    ],
)
def test_dropped(source, dropped):
    assert scan(source).dropped == dropped


def test_raw_text_is_not_read_as_markup():
    starts, texts = read("<title>a <b>b</b></title><textarea><i>c</i></textarea><xmp><u>d</u></xmp>")
    assert texts == ["a <b>b</b>", "<i>c</i>", "<u>d</u>"]
    assert not {"b", "i", "u"} & {tag for tag, _ in starts}


def test_a_tag_cut_by_the_end_is_dropped_but_text_that_resembles_one_stays():
    for source, shown, gone in [
        ("<p>a</p><a href='b c", "a", [(8, 20, "unclosed-tag")]),
        ("<p>a</p>x <y and z", "ax <y and z", []),
    ]:
        assert "".join(read(source)[1]) == shown
        assert scan(source).dropped == gone


@pytest.mark.parametrize("source", ["", "  \n", "<", "<!", "</", "<a", "<!--", "\x00", "\ud800", "&", "<>"])
def test_tiny_sources(source):
    shown = "".join(read(source)[1])
    assert shown.strip() == (
        "\ufffd"
        if source in ("\x00", "\ud800")
        else ""
        if source in ("<!", "</", "<!--", "<a")
        else source.strip()
    )


@given(data=st.data())
def test_places_are_ordered_and_inside(data, strategies):
    source = data.draw(strategies.html)
    source = sanitize(source)
    found = scan(source)
    ends = [*found.begin[1:], len(source)]
    assert found.begin[0] == found.after[0] == 0
    assert all(a <= b <= c <= len(source) for a, b, c in zip(found.begin, found.after, ends, strict=True))
    edges = [edge for start, end, _ in found.dropped for edge in (start, end)]
    assert edges == sorted(edges)
    assert all(0 <= e <= len(source) for e in edges)
    for start, end, why in found.dropped:  # nothing shown lies in what is dropped, single characters aside
        assert why.startswith("hidden:") or not any(
            t < end and start < e for t, e in zip(found.after, found.ends, strict=True) if t < e
        )


@pytest.mark.parametrize(
    "script",
    [
        "<script><!-- a </script>",
        "<script><!--<script>x</script>--></script>",
        "<script>document.write('<!-- <script>gone</script> -->')</script>",
        "<script><!--\n<script src=x></script>\n//--></script>",
    ],
)
def test_script_inside_a_comment_of_a_script(script):
    """The standard's "script data double escaped" state: <!-- <script> hides one </script>."""
    assert scan(f"{script}<p>shown").dropped == [(0, len(script), "script")]
