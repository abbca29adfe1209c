"""Documents: kinds, bytes, errors."""

import codecs

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tokenprune as tp
from tokenprune.detect import detect_kind, kind_of_file
from tokenprune.document import KINDS, Document, decode
from tokenprune.errors import DocumentError


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("", "text"),
        (" \n", "text"),
        ("plain words", "text"),
        ("<!DOCTYPE html><p>x", "html"),
        ("  \n<!doctype HTML>", "html"),
        ("<html lang=en>x", "html"),
        ('<?xml version="1.0"?>\n<html xmlns="x">', "html"),
        ("<p>one</p>", "html"),
        ("<div class='a'>one</div> two", "html"),
        ("intro\n<ul><li>a</ul>", "html"),
        ("<table><tr><td>1</td></tr></table>", "html"),
        ("a < b and c > d", "text"),
        ("use <b>one</b> word in bold", "text"),
        ("List<String> x = new Map<Integer, List<p>>();", "text"),
        ("# Markdown\n\n```html\n<div><p>code</p></div>\n```\n", "text"),
        ("```\n<div><p>never closed</p></div>", "text"),
        ("Prose. " * 300 + "<p>a</p>", "text"),
        ("<note><to>x</to></note>", "text"),
        ("<think>hm</think> <answer>x</answer>", "text"),
        ("<!DOCTYPE svg><svg></svg>", "text"),
    ],
)
def test_detect_kind(text, kind):
    assert detect_kind(text) == kind
    assert Document(text).kind == kind


def test_explicit_kind_wins():
    assert Document("<p>a</p><p>b</p>", kind="text").kind == "text"
    assert Document("plain", kind="html").kind == "html"


@given(data=st.data())
def test_any_text_has_a_kind(data, strategies):
    assert detect_kind(data.draw(st.one_of(strategies.html, strategies.text))) in ("html", "text")


def test_detection_of_adversarial_text_is_quick_enough_to_finish():
    for text in (
        "<p " * 200_000,
        "<" * 500_000,
        "```" * 200_000,
        "<p" + " " * 500_000,
        "<?xml " + "x" * 500_000,
        "a" + "<script" * 70_000,
        "<a " + "b" * 500_000,
        "x" + "<a b" * 100_000,
        "\"'`" * 200_000 + "<",
        "a\n" * 200_000 + "<",
        "return " * 70_000 + "<",
        "const x" * 70_000 + "<",
        "-" * 500_000 + "<",
        "<!--a--> " * 50_000,
        "<!" * 50_000 + "<p>",
        "<?xml " + "<!" * 50_000,
        "x\n" + "1 " * 50_000 + "<p>",
        "<" + "a " * 50_000,
        "./" * 50_000 + "<",
    ):
        assert detect_kind(text) in ("html", "text")


@pytest.mark.parametrize("text", [b"bytes", None, 3])
def test_text_must_be_str(text):
    with pytest.raises(DocumentError, match=r"must be str, not .*from_bytes"):
        Document(text)


@pytest.mark.parametrize(
    ("data", "what"),
    [(b"%PDF-1.7\n%x", "a PDF"), (b"PK\x03\x04word/", "office document"), (b"\x89PNG\r\n", "a picture")],
)
def test_bytes_that_are_no_text(data, what):
    with pytest.raises(DocumentError, match=f"{what}, not text: extract its text first"):
        Document.from_bytes(data)


def test_unknown_kind_lists_the_kinds():
    with pytest.raises(
        DocumentError, match="unknown document kind 'pdf'; known kinds: html, text, triples, examples, chat"
    ):
        Document("x", kind="pdf")
    assert set(KINDS) == {"html", "text", "triples", "examples", "chat"}


def test_with_text_and_to_dict():
    document = tp.Document("<p>a</p><p>b</p>", id="x", title="T", metadata={"language": "en"})
    other = document.with_text("b")
    assert other.to_dict() == {
        "id": "x",
        "kind": "html",
        "title": "T",
        "text": "b",
        "metadata": {"language": "en"},
    }
    assert document.text == "<p>a</p><p>b</p>"
    with pytest.raises(AttributeError):
        document.text = "changed"


def test_from_bytes():
    document = Document.from_bytes("<p>é</p><p>x</p>".encode(), id="a", kind="text")
    assert (document.text, document.id, document.kind) == ("<p>é</p><p>x</p>", "a", "text")


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", ""),
        ("naïve 日本".encode(), "naïve 日本"),
        (codecs.BOM_UTF8 + "é".encode(), "é"),
        ("é日".encode("utf-16"), "é日"),
        (codecs.BOM_UTF16_BE + "é日".encode("utf-16-be"), "é日"),
        ("é日".encode("utf-32"), "é日"),
        (b"<meta charset=iso-8859-2>" + "łódź".encode("iso-8859-2"), "<meta charset=iso-8859-2>łódź"),
        (b'<meta http-equiv=x content="text/html; charset=shift_jis">' + "日本語".encode("shift_jis"),
         '<meta http-equiv=x content="text/html; charset=shift_jis">日本語'),
        (b'<?xml version="1.0" encoding="gb2312"?>' + "中文".encode("gb2312"), '<?xml version="1.0" '
        'encoding="gb2312"?>中文'),
        # declared as one thing, but valid UTF-8
        (b"<meta charset=latin-1>" + "é".encode(), "<meta charset=latin-1>é"),
        # no declaration and no UTF-8: Windows-1252
        (b"caf\xe9", "café"),
        (b"na\xefve caf\xe9 \x93quoted\x94 \x80 5", "naïve café “quoted” € 5"),
        # labels as browsers read them
        ("<meta charset=gb2312>朱镕基".encode("gbk"), "<meta charset=gb2312>朱镕基"),
        ("<meta charset=shift_jis>①日本語 髙".encode("cp932"), "<meta charset=shift_jis>①日本語 髙"),
        ("<meta charset=x-sjis>①日本語".encode("cp932"), "<meta charset=x-sjis>①日本語"),
        ("<meta charset=euc-kr>똠방각하".encode("cp949"), "<meta charset=euc-kr>똠방각하"),
        ("<meta charset=iso-8859-1>“Bob’s” 5 €".encode("cp1252"), "<meta charset=iso-8859-1>“Bob’s” 5 €"),
        ("<meta charset=utf-16>“é”".encode(), "<meta charset=utf-16>“é”"),
        # a byte that is wrong, or was cut off, does not spoil the others
        ("<meta charset=utf-8>café – 日本語".encode()[:-1], "<meta charset=utf-8>café – 日本\ufffd"),
        ("日本語の文".encode() + b"\xff", "日本語の文\ufffd"),
        ("<meta charset=euc-jp>日本語の文".encode("euc-jp") + b"\xff", "<meta charset=euc-jp>日本語の文\ufffd"),
        (codecs.BOM_UTF8 + "é".encode() + b"\xff", "é\ufffd"),
        (codecs.BOM_UTF16_LE + "é日".encode("utf-16-le") + b"a", "é日\ufffd"),
        ("<!-- <meta charset=koi8-r> --><meta charset=windows-1251>Привет".encode("cp1251"),
         "<!-- <meta charset=koi8-r> --><meta charset=windows-1251>Привет"),
        # what is declared does not fit
        ("<meta charset=utf-8>naïve café".encode("cp1252"), "<meta charset=utf-8>naïve café"),
        # declared encodings that do not exist or are no encodings of text
        (b"<meta charset=no-such-thing>caf\xe9", "<meta charset=no-such-thing>café"),
        (b"<meta charset=rot13>caf\xe9", "<meta charset=rot13>café"),
        (b"<meta charset=undefined>caf\xe9", "<meta charset=undefined>café"),
    ],
    ids=lambda v: repr(v)[:30],
)  # fmt: skip
def test_decode(data, text):
    assert decode(data) == text


@pytest.mark.parametrize("data", ["text", None, [1, 2]])
def test_what_is_no_bytes(data):
    with pytest.raises(DocumentError, match="takes bytes, not"):
        Document.from_bytes(data)


def test_other_bytes_like_objects():
    assert Document.from_bytes(bytearray(b"a")).text == Document.from_bytes(memoryview(b"a")).text == "a"


def test_seven_bit_encodings_are_declared():
    """ISO-2022-JP is valid UTF-8, byte for byte: only its declaration tells."""
    page = "<meta charset=iso-2022-jp><p>日本語</p>"
    assert decode(page.encode("iso-2022-jp")) == page


def test_bom_with_broken_utf8():
    assert decode(codecs.BOM_UTF8 + b"abc\xff").startswith("abc")


@given(
    st.binary(max_size=60),
    st.sampled_from([b"", b"\xff\xfe", b"\xfe\xff", codecs.BOM_UTF8, b"<meta charset=", b"<?xml encoding='"]),
)
def test_decode_never_fails(data, start):
    assert isinstance(decode(start + data), str)


@pytest.mark.parametrize(
    "charset",
    [b"undefined", b"idna", b"punycode", b"unicode_escape", b"utf-7", b"a\x00b", b"hex", b"mbcs", b"x" * 500],
)
def test_decode_survives_any_declared_charset(charset):
    assert "x" in decode(b'<meta charset="' + charset + b'"><p>x\xff\\</p>')


PAGE = "<!doctype html>\n<html><head><title>t</title></head><body><p>one</p></body></html>\n"
PYTHON = 'def page(rows):\n    out = "<ul>"\n    return out + "</ul>" + \'<p class="a">\' + "</p>"\n'
TEMPLATE = 'import re\n\n\ndef page(name):\n    return f"""\n' + PAGE + '"""\n'
JSX = """import { useState } from "react";

export default function Menu({ open, items }: { open: boolean; items: Array<Item> }) {
  return (
    <nav hidden={!open}>
      <ul className="menu">
        {items.map((item) => <li key={item.id}><a href={item.url}>{item.name}</a></li>)}
      </ul>
    </nav>
  );
}
"""
GUIDE = """# Inline elements

Use `<span>` inside a line and `<div>` around lines; `<p>` is a paragraph.

- `List<String>` is no tag
- [more](https://example.org)
"""


@pytest.mark.parametrize(
    "text",
    [
        PYTHON,
        TEMPLATE,
        JSX,
        JSX[JSX.index("<nav") :],
        GUIDE,
        GUIDE.replace("`", ""),
        '<p align="center"><img src="logo.png"></p>\n\n# Project\n\n<br>\n\n## Use\n\nRun it.\n',
        "<?php echo '<p>a</p>'; ?>\n<p>b</p><p>c</p>",
        "<template>\n  <div><p>{{ a }}</p></div>\n</template>\n<script setup>\nlet a = 1\n</script>\n",
        "<script>\n  import A from './A.svelte';\n</script>\n<p>a</p><p>b</p>\n",
        'const row = (a) => {\n  return "<tr><td>" + a + "</td></tr>";\n};\n',
        '{"html": "<p>one</p><p>two</p>"}',
        'from flask import Flask\n\nPAGE = """\n'
        + PAGE
        + '"""\n\n\n@app.get(\'/\')\ndef index():\n    return f(PAGE)\n',
        "{% extends 'base' %}\n<div><p>{{ a }}</p></div>\n",
        "<ul>\n<% items.each do |i| %>\n<li><%= i %></li>\n<% end %>\n</ul>\n",
        '{{ define "page" }}\n<div><p>{{ .Name }}</p></div>\n{{ end }}\n',
        "@@ -1,3 +1,3 @@\n <div>\n-<p>one</p>\n+<p>two</p>\n </div>\n",
        "-<p>one</p>\n+<p>two</p>\n-<ul></ul>\n",
        "web/page0.html:12: <p>one</p>\nweb/page1.html:3: <p>two</p>\n",
        "    1\t<div>\n    2\t<p>one</p>\n    3\t</div>\n",
        "[1]<a role=button>One />\n\t[2]<div>two</div>\n[3]<p>x</p>\n",
        "2024-05-01 12:00:01 body=<html><p>a</p></html>\n2024-05-01 12:00:02 body=<html><p>b</p></html>\n",
        "From: Ann <ann@example.org>\nTo: Bob <bob@example.org>\n\n<p>Dear Bob</p><p>no</p>\n",
        "Links are written with <a>, cells with <td> and <th>, and lines of text with <span>.",
        "| a | b |\n| x<br>y | <p>z</p> |\n",
        "key: |\n  <div>\n  <p>one</p>\n  </div>\n",
        '<rss version="2.0"><channel><title>t</title><item><p>one</p><p>two</p></item></channel></rss>',
        '<?xml version="1.0"?>\n<feed><entry><div><p>one</p></div></entry></feed>',
        "<book><section><p>one</p><p>two</p></section></book>",
        "Say `<p>` and `</p>`.",
    ],
)
def test_code_and_markdown_that_mention_tags_are_text(text):
    assert detect_kind(text) == detect_kind("\n" + text) == "text"
    if not text.startswith(("<rss", "<?xml", "<book")):
        assert detect_kind("Explain this:\n\n" + text) == "text"


@pytest.mark.parametrize(
    "text",
    [
        PAGE,
        "What does it say?\n\n" + PAGE,
        'What does it say?\n\n<div><p>It\'s said: "one".</p><p>The tenant shall (a) pay;\nb) leave;</p></div>',
        "<!-- saved --><div><p>a</p></div>",
        "<p>" + "A long paragraph of words. " * 40 + "</p><p style='display:none'>x</p>",
        "<my-element><div><p>a</p></div></my-element>",
        '<?xml version="1.0"?><!-- a --><!DOCTYPE x><html xmlns="x"><p>a</p></html>',
        "Hello,<br><br>our offer:<br>- one<br>- two<br><br>Regards",
        "<p>a</p><script>const a = (b) => {\n  return c;\n};\nimport(d);\n</script><p>b</p>",
        "From the docs:\n<p>Call it so:</p><pre>def f(x):\n    return (\n</pre><p>and\n# then</p>",
        "<div><p>a</p>" + "<script>var a = {\n};</script>" * 300 + "<p>b</p></div>",
    ],
)
def test_pages_with_code_in_them_are_html(text):
    assert detect_kind(text) == "html"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.HTML", "html"),
        ("b/c.xhtml", "html"),
        ("a.md", "text"),
        ("x.tsx", "text"),
        ("a.txt", None),
        ("-", None),
    ],
)
def test_names_of_files_that_say_what_is_in_them(name, kind):
    assert kind_of_file(name) == kind


@pytest.mark.parametrize("text", ["<p>x", " <div class=a>x", "<li>x y", "<H1>x", "<table><i"])
def test_a_fragment_is_html(text):
    assert Document(text).kind == "html"


@pytest.mark.parametrize(
    "text", ["<b>x", "List<p> x", "</p> x", "<person> x", "<p>" + "x " * 400, "a <p> x", "<span>x"]
)
def test_what_is_no_fragment(text):
    assert Document(text).kind == "text"
