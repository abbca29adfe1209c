"""Items of ordered lists keep the number they had, in every form."""

import re

import numpy as np
import pytest
from bs4 import BeautifulSoup
from hypothesis import given
from hypothesis import strategies as st

from tokenprune.document import Document
from tokenprune.render import renderer
from tokenprune.segment.html_blocks import HtmlBlocks
from tokenprune.tokens import get_counter


def units_of(page):
    return HtmlBlocks(3).segment(Document(page, kind="html"), get_counter())


def numbers(html):
    """What a reader sees: words of the items and their numbers, by the rules of the HTML standard."""
    found = {}
    for ol in BeautifulSoup(html, "lxml").find_all("ol"):
        items = ol.find_all("li", recursive=False)
        step = -1 if ol.has_attr("reversed") else 1
        number = int(ol.get("start", 1 if step > 0 else len(items))) - step
        for item in items:
            number = int(item.get("value", number + step))
            found[item.find(string=True).strip()] = number
    return found


@pytest.mark.parametrize(
    ("page", "kept", "html"),
    [
        ("<ol><li>a b c<li>d e f<li>g h i</ol>", [0, 2], "<ol><li>a b c<li value=3>g h i</ol>"),
        ("<ol><li>a b c<li>d e f<li>g h i</ol>", [1, 2], "<ol><li value=2>d e f<li>g h i</ol>"),
        ("<ol><li>a b c<li>d e f<li>g h i</ol>", [0, 1], "<ol><li>a b c<li>d e f</ol>"),
        ("<ul><li>a b c<li>d e f<li>g h i</ul>", [1, 2], "<ul><li>d e f<li>g h i</ul>"),
        ("<ol start=5><li>a b c<li value=9>d e f<li>g h i</ol>", [1, 2], "<ol start=5><li value=9>d e f<li>g h i</ol>"),
        ("<ol reversed><li>a b c<li>d e f<li>g h i</ol>", [0], "<ol reversed><li value=3>a b c</ol>"),
        ("<ol start='say this' class=x><li value=b1>a b c</ol>", [0], "<ol><li>a b c</ol>"),
        ("<ol start=' +7 and more'><li value=1b>a b c</ol>", [0], "<ol start=7><li value=1>a b c</ol>"),
    ],
)  # fmt: skip
def test_html(page, kept, html):
    units = units_of(page)
    mask = np.isin(np.arange(len(units)), kept)
    assert renderer("same").render(units, mask).text == html


attributes = st.one_of(st.just(""), st.integers(-9, 99).map("{}".format))


@given(data=st.data())
def test_numbers_are_those_of_the_page(data):
    words = iter(f"w{n} of it" for n in range(99))

    def a_list(depth):
        start, back = data.draw(attributes), data.draw(st.booleans())
        items = ""
        for _ in range(data.draw(st.integers(1, 5))):
            value = data.draw(attributes) if data.draw(st.booleans()) else ""
            inner = a_list(depth + 1) if depth < 2 and data.draw(st.booleans()) else ""
            items += f"<li{f' value={value}' if value else ''}>{next(words)}{inner}</li>"
        return f"<ol{f' start={start}' if start else ''}{' reversed' if back else ''}>{items}</ol>"

    page = f"<p>Before it all.</p>{a_list(0)}<p>Behind it all.</p>"
    units = units_of(page)
    keep = np.array(data.draw(st.lists(st.booleans(), min_size=len(units), max_size=len(units))))
    original = numbers(page)
    for form in ("same", "html"):
        text = renderer(form).render(units, keep).text
        shown = {w: n for w, n in numbers(text).items() if re.fullmatch(r"w\d+ of it", w)}
        assert shown.items() <= original.items(), text
    for number, word in re.findall(r"(\d+)\. (w\d+ of it)", renderer("markdown").render(units, keep).text):
        assert int(number) == max(0, original[word])
