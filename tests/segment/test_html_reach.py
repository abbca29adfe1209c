"""How far hidden elements reach: what browsers hide goes, what they show stays, whatever libxml2 makes of it."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenprune.segment.html_clean import clean
from tokenprune.segment.html_page import TEXT

# "S" is what browsers hide and "v" what they show, by the tree construction of the HTML standard.
PAGES = [
    # libxml2 moves a block out of an inline element
    "<b hidden><p>S</p></b>v",
    "<p>v<b hidden><p>S</p></b>",
    "<p>v<i hidden>S<p>S<p>S</i>v",
    "<p><font hidden>S</p><div>S<h2>S</h2></div></font>v",
    "<b style=visibility:hidden><p>S</p></b>v",
    "<b style=font-size:0><p>S</p><p style=font-size:9px>v</p></b>v",
    "<b style='color:red;background:red'><p>S</p></b><p>v</p>",
    # formatting goes on in the next block until its own end tag, others do not
    "<p>v<span hidden><p>v</p></span>",
    "<div><b hidden></div>S</b>v",
    "<div><span hidden>S</div>v",
    "<b hidden>S<b>S</b>S</b>v",
    "<b hidden><p>S</b>v</p>v",
    "<b hidden><div>S<p>S</b>v</p>v</div>v",
    "<b hidden>" + "<div>S" * 9 + "</b>S",
    "<b><div hidden></b>S</div>v",
    "<span><p hidden></span>S</p>v",
    "<a hidden>S<a>v",
    "<p>v<b hidden>S</p><table><tr><td>v</table>S</b>v",
    "<table><tr><td><b hidden>S<td>v</table>v",
    # the slash that ends nothing
    "<div hidden/>S</div>v",
    "<div hidden=/>S</div>v",
    "<div hidden=''/>S<p>S</p></div>v",
    "<span style='display:none'/>S</span>v",
    "<span style=display:none />S</span>v",
    "<span style=visibility:hidden />S</span>v",
    "<script/>S</script>v",
    "<style />S</style>v",
    "<svg><path hidden/></svg>v",
    "<svg><script href=x /></svg><p>v",
    "<svg hidden/>v",
    # what bounds an end tag
    "<div hidden><select></div>S</select></div>v",
    "<div hidden><object></div>S</object></div>v",
    "<div hidden><table></div><tr><td></div>S</table>S</div>v",
    "<div hidden><button></div>v",
    "<div hidden></section>S</p>S</span>S</body>S</html>S</div>v",
    "<form><div hidden></form>S</div>v",
    "<form hidden><div>S</form>S</div>v",
    "<section><div hidden>S</section>v",
    # what ends an element
    "<p hidden>S<div>v</div>",
    "<ul><li hidden>S<ul><li>S</ul>S<li>v</ul>v",
    "<dl><dt hidden>S<dd>v<dd hidden>S<dt>v</dl>v",
    "<select><option hidden>S<option>v</select>v",
    "<select hidden>S<option>S<select>v",
    "<h1 hidden>S<h2>v</h1>v",
    "<button hidden>S<button>v",
    "<table><tr><td hidden>S<p>S<td>v<tr hidden><td>S<th>S<tbody><tr><td>v</table>v",
    "<table><caption hidden>S<tr><td>v</table>v",
    "<table hidden><tr><td>S<table><tr><td>S</table>S</table>v",
    "<table hidden><table>v",
    "<ruby>v<rt hidden>S<rt>v</ruby>v",
    # what is put in front of a table is not in it
    "<table hidden>v<tr><td>S</table>v",
    "<table><div hidden>S</div><tr><td>v</table>v",
    # without a doctype a table can stand in a paragraph
    "<p hidden>S<table><tr><td>S</table>S</p>v",
    "<!doctype html><p hidden>S<table><tr><td>v</table>v",
    # foreign content
    "<div hidden><svg></div>v",
    "<svg><title>S</title></svg><title>v</title>v",
    "<svg><foreignObject><title>v</title><p hidden>S</p>v</foreignObject>v</svg>v",
    "<svg><desc>S<p>S</p></desc><p>v</p></svg>v",
    "<svg><g display=none><p>v</p></svg>v",
    "<math><mi hidden>S</mi><mi>v</mi><mphantom><mi>S</mi></mphantom></math>v",
    "<math><annotation-xml><mi>S</mi></annotation-xml></math>v",
    # white space beside what is hidden
    "v<b hidden>S</b> <i>v</i>",
]


def shown(source):
    page = clean(source)
    return "".join(t for kind, t in zip(page.kind, page.text, strict=True) if kind == TEXT)


@pytest.mark.parametrize("page", PAGES)
def test_what_browsers_hide_goes_and_what_they_show_stays(page):
    out = shown(page)
    assert "S" not in out
    assert out.count("v") == len(re.findall(r"\bv\b", page))


def test_white_space_beside_what_is_hidden():
    assert shown("a<b hidden>x</b> <i>c</i>").split() == ["a", "c"]
    assert shown("a<b hidden>x <i>y</i> </b>c") == "ac"


def test_what_is_hidden_is_named():
    page = "<p>v<b hidden>S<p>S</b>v"
    dropped = clean(page).dropped
    assert {why for *_, why in dropped} == {"hidden:attribute"}
    assert "".join(page[a:b] for a, b, _ in dropped).count("S") == 2


TAGS = (
    "b i a p div span table tr td th caption li ul h1 h2 form select option object button svg math mi"
    " foreignobject annotation-xml body dialog br"
).split()
parts = st.one_of(
    st.builds(
        "<{}{}>".format,
        st.sampled_from(TAGS),
        st.sampled_from(["", "", " hidden", " style=visibility:hidden", " /"]),
    ),
    st.builds("</{}>".format, st.sampled_from(TAGS)),
    st.just("w "),
)


@given(st.lists(parts, max_size=30).map("".join))
@settings(max_examples=300)
def test_nothing_behind_the_end_of_a_hidden_element_is_lost(soup):
    """Whatever came before, a hidden element hides its own words; and without one all words stay."""
    page = soup + "<div hidden>secret</div>"
    assert "secret" not in shown(page)
    bare = soup.replace(" hidden", "").replace(" style=visibility:", "")
    bare = bare.replace("<dialog", "<div").replace("<annotation", "<g")
    assert "".join(shown(bare).split()) == "w" * bare.count("w ")
