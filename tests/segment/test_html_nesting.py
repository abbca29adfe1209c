"""Pages whose tags nest are read without libxml2, just as it would read them, and as browsers nest them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenprune.segment.html_nesting import nested
from tokenprune.segment.html_repair import repaired
from tokenprune.segment.html_scopes import nests
from tokenprune.segment.html_source import CLOSES, ENDED, NO_TAG, OPENS, scan
from tokenprune.segment.html_tags import VOID
from tokenprune.segment.html_unseen import unseen
from tokenprune.tokens import sanitize

NAMES = (
    "div p span b i a em ul ol li dl dt dd table caption tbody tr td th h1 h2 pre code q form fieldset select"
    " option textarea center section nav blockquote noscript label button svg math g title tspan my-tag"
).split()
ATTRIBUTES = ["", "", "", " class='a b'", ' title="a > b"', " hidden", " style='visibility:hidden'",
              " style='visibility:visible'", " style='color:#fff;background:#fff'", " style='font-size:0'",
              " style='font-size:12px'", " style='font-size:.2em'", " bgcolor=white", " /",
              " style='color:#fff'", " style='color:#900;background:#fff'", " style='background:url(x)'",
              " style='color:transparent'", " style='fill:none'", " style='display:none'"]  # fmt: skip
TEXTS = ["word", " ", "\n", " a b ", "&amp;", "&copy", "&#8203;", "x\u200by", "1 < 2", "<br>", "<wbr>", "<img src=x>",
         "</img>", "<!-- c -->", "<script>a<b</script>", "<hr/>", "<path/>", "&nbsp;"]  # fmt: skip
KIDS = {"ul": "li", "ol": "li", "table": "tr tbody caption", "tbody": "tr", "tr": "td th", "dl": "dt dd",
        "select": "option", "svg": "g title"}  # fmt: skip


def element(children):
    def write(name, attributes, inner):
        if name in KIDS:
            kid = KIDS[name].split()[len(inner) % len(KIDS[name].split())]
            inner = f"<{kid}>{inner}</{kid}>"
        return f"<{name}{attributes}>{inner}</{name}>"

    return st.builds(write, st.sampled_from(NAMES), st.sampled_from(ATTRIBUTES), children)


parts = st.recursive(
    st.sampled_from(TEXTS),
    lambda c: st.lists(st.one_of(element(c), c), max_size=4).map("".join),
    max_leaves=15,
)
pages = st.builds(
    str.format,
    st.sampled_from([
        "{0}",
        "<p>{0}</p>",
        "<!doctype html>\n<html>\n<head><meta charset=x>\n<title>t</title>\n</head>\n<body> {0}</body>\n</html>\n",
        "<html><body class=x>{0}</body></html>",
    ]),
    parts,
)  # fmt: skip


def flat(page, events):
    """Tags and texts; white space before the first of them says nothing, nor do the tags around all."""
    out = []
    for code, mark, text in zip(events.code, events.mark, events.text, strict=True):
        kind, name = code & 3, page.names[code >> 2]
        if kind != NO_TAG and name not in ("html", "head", "body"):
            out.append((f"/{name}", -1) if kind == CLOSES else (name, mark))
            if kind == ENDED and name not in VOID:
                out.append((f"/{name}", -1))
        if text and out and out[-1][0] == "text":
            out[-1] = ("text", out[-1][1] + text)
        elif text and (out or text.strip(" \n")):
            out.append(("text", text))
    return [o for i, o in enumerate(out) if o[0] != "text" or o[1].strip(" \n") or i < len(out) - 1]


@given(source=pages)
@settings(max_examples=300)
def test_libxml2_reads_the_same(source):
    page = scan(sanitize(source))
    if (found := nested(page)) is not None:
        assert flat(page, found[0]) == flat(page, repaired(page))


@given(source=pages)
@settings(max_examples=300)
def test_browsers_see_the_same(source):
    page = scan(sanitize(source))
    if (found := nested(page)) is not None and nests(page, found[1]):
        assert unseen(page, None, found[1])[0] == unseen(page, None, None)[0]


@pytest.mark.parametrize(
    ("source", "alone", "plain"),
    [
        ("<p>a <b>b</b></p>", True, True),
        ("<p>a<wbr>b<br/></p></img>", True, True),
        ("<div><svg><path/></svg></div>", True, True),
        ("<table><tr><td>a</td></tr></table>", True, True),
        ("<html><head><title>a</title></head><body><p>b</p></body></html>", True, True),
        ("<table><tr><b>a</b></tr></table>", True, False),  # browsers put the text in front of the table
        ("<ul><div><li>a</li></div></ul>", True, False),
        ("<p><span/>a</p>", True, False),
        ("<p><my-tag><div>a</div></my-tag></p>", True, False),
        ("<p>a", False, False),
        ("<p><div>a</div></p>", False, False),
        ("<b><p>a</b></p>", False, False),
        ("<div/>a", False, False),
        ("a<p>b</p>", False, False),
        ("<html><p>a</p></html>", False, False),
        ("<html><body>a</body></html>b", False, False),
        ("<p>a</p>\r", False, False),
        ("<p>a <b and c</p>", False, False),
    ],
)
def test_what_is_plain(source, alone, plain):
    page = scan(source)
    found = nested(page)
    assert (found is not None) == alone
    assert (found is not None and nests(page, found[1])) == plain


def test_places():
    page = scan("<ul><li>a<li>b</ul><p>c<br>d</p>".replace("<li>b", "</li><li>b</li>"))
    _, nesting = nested(page)
    names = [page.names[code >> 2] for code in page.code]
    starts = [k for k, code in enumerate(page.code) if code & 3 == OPENS]
    assert [names[k] for k in starts] == ["ul", "li", "li", "p"]
    assert [names[nesting.close[k]] for k in starts] == ["ul", "li", "li", "p"]
    assert [int(nesting.parent[k]) for k in starts] == [-1, starts[0], starts[0], -1]
    assert nesting.pairs == {("body", "ul"), ("ul", "li"), ("body", "p"), ("p", "br")}
