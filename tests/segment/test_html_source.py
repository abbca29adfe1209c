"""The scanner before libxml2: numbers, places and what is dropped."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenprune.segment.html_source import NUMBER, parse, scan
from tokenprune.segment.html_tags import attributes


class Record:
    """A target that keeps what libxml2 reports."""

    def __init__(self):
        self.events = []

    def start(self, tag, attrs):
        self.events.append(("start", tag, dict(attrs)))

    def end(self, tag):
        self.events.append(("end", tag))

    def data(self, text):
        if self.events and self.events[-1][0] == "data":
            text = self.events.pop()[1] + text
        self.events.append(("data", text))

    def comment(self, text):
        self.events.append(("comment", text))

    def close(self):
        self.events.append(("close",))


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
    places = [(source[b:t], source[t:e]) for b, t, e in zip(found.begin, found.text, found.end, strict=True)]
    assert places == [("<p class=a>", "one"), ("<b>", "two"), ("", "three"), ("<i>", "four")]
    assert found.attrs == {0: " class=a"}
    assert [(source[a:b], why) for a, b, why in found.dropped] == [("<!-- c -->", "comment")]


def test_page_cannot_forge_a_number():
    record = Record()
    parse(f"<p {NUMBER}=7 a=b>x</p><!--3-->y", record)
    numbers = [e[2].get(NUMBER) for e in record.events if e[0] == "start" and e[1] == "p"]
    assert numbers == ["0"]
    assert [e[1] for e in record.events if e[0] == "comment"] == ["1"]
    assert all(set(e[2]) <= {NUMBER} for e in record.events if e[0] == "start")


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
    record = Record()
    parse("<title>a <b>b</b></title><textarea><i>c</i></textarea><xmp><u>d</u></xmp>", record)
    assert [e[1] for e in record.events if e[0] == "data"] == ["a <b>b</b>", "<i>c</i>", "<u>d</u>"]
    assert not {"b", "i", "u"} & {e[1] for e in record.events if e[0] == "start"}


def test_a_tag_cut_by_the_end_is_dropped_but_text_that_resembles_one_stays():
    for source, shown, gone in [
        ("<p>a</p><a href='b c", "a", [(8, 20, "unclosed-tag")]),
        ("<p>a</p>x <y and z", "ax <y and z", []),
    ]:
        record = Record()
        parse(source, record)
        assert "".join(e[1] for e in record.events if e[0] == "data") == shown
        assert record.scan.dropped == gone


@pytest.mark.parametrize("source", ["", "  \n", "<", "<!", "</", "<a", "<!--", "\x00", "\ud800", "&", "<>"])
def test_tiny_sources(source):
    record = Record()
    parse(source, record)
    shown = "".join(e[1] for e in record.events if e[0] == "data")
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
    found = scan(source)
    at = 0
    for begin, text, end in zip(found.begin, found.text, found.end, strict=True):
        assert at <= begin <= text <= end <= len(source)
        at = text
    edges = [edge for start, end, _ in found.dropped for edge in (start, end)]
    assert edges == sorted(edges)
    assert all(0 <= e <= len(source) for e in edges)
    for start, end, why in found.dropped:  # nothing shown lies in what is dropped, single characters aside
        assert why.startswith("hidden:") or not any(
            t < end and start < e for t, e in zip(found.text, found.end, strict=True) if t < e
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
