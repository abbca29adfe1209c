"""Cells that span columns and rows: the columns of Markdown and text stay those of the page."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenprune.document import Document
from tokenprune.render.markdown import Markdown
from tokenprune.render.text import PlainText
from tokenprune.segment.html_blocks import HtmlBlocks
from tokenprune.tokens import get_counter

ROWS = {
    "columns": (
        "<tr><th>A<th>B<th>C<tr><td colspan=2>1<td>2<tr><td>3<td colspan=2>4",
        [["A", "B", "C"], ["1", "", "2"], ["3", "4", ""]],
    ),
    "rows": (
        "<tr><th>A<th>B<tr><td rowspan=3>x<td>1<tr><td>2<tr><td>3<tr><td>y<td>4",
        [["A", "B"], ["x", "1"], ["x", "2"], ["x", "3"], ["y", "4"]],
    ),
    "rows in the middle and at the end": (
        "<tr><th>A<th>B<th>C<tr><td>1<td rowspan=2>x<td rowspan=2>y z<tr><td>2",
        [["A", "B", "C"], ["1", "x", "y z"], ["2", "x", "y z"]],
    ),
    "both": (
        "<tr><th rowspan=2>A<th colspan=2>B<tr><th>b<th>c<tr><td rowspan='2' colspan='2'>x<td>1<tr><td>2",
        [["A", "B", ""], ["A", "b", "c"], ["x", "", "1"], ["x", "", "2"]],
    ),
    "groups end it": (
        "<thead><tr><th rowspan=9>A<th>B<tbody><tr><td rowspan=0>x<td>1<tr><td>2<tbody><tr><td>y<td>3",
        [["A", "B"], ["x", "1"], ["x", "2"], ["y", "3"]],
    ),
    "no numbers": (
        "<tr><td colspan=x rowspan=-2>a<td colspan=0>b<tr><td>c<td>d",
        [["a", "b"], ["c", "d"]],
    ),
    "empty": ("<tr><td rowspan=2><td>1<tr><td>2", [["", "1"], ["", "2"]]),
}


def units(table):
    return HtmlBlocks(1).segment(Document(f"<table>{table}</table>", kind="html"), get_counter())


def rendered(found, form, keep=None):
    mask = np.ones(len(found), dtype=bool) if keep is None else np.asarray(keep, dtype=bool)
    return form.render(found, mask).text


def markdown_rows(text):
    lines = [line for line in text.split("\n") if not set(line) <= set("|- ")]
    return [[cell.strip() for cell in line[1:-1].split("|")] for line in lines]


def text_rows(text, columns):
    """Empty cells at the very end are cut."""
    rows = [line.split("\t") for line in text.split("\n")]
    return [row + [""] * (columns - len(row)) for row in rows]


@pytest.mark.parametrize("name", ROWS)
def test_columns(name):
    table, expected = ROWS[name]
    assert markdown_rows(rendered(units(table), Markdown())) == expected
    assert text_rows(rendered(units(table), PlainText()), len(expected[0])) == expected


def test_rows_that_are_dropped_still_count():
    """Kept are the head and the last two rows; a value whose own cell is gone does not come back."""
    table = (
        "<tr><th>one two<th>B<tr><td rowspan=3>x w<td>1<tr><td rowspan=2>2<tr><tr><td>y<td>4 four"
        "<tr><td>z<td>5"
    )
    found = units(table)
    keep = ["4 four" in t or "z" in t or "5" in t or "one" in t or t == "y" for t in found.texts]
    assert markdown_rows(rendered(found, Markdown(), keep))[1:] == [["y", "4 four"], ["z", "5"]]
    table = "<tr><td rowspan=3>gone gone<td>1<tr><td>2<tr><td>3 here<tr><td>y<td>4"
    found = units(table)
    keep = ["here" in t for t in found.texts]
    assert sum(keep) == 1
    assert markdown_rows(rendered(found, Markdown(), keep)) == [["", "3 here"]]
    assert rendered(found, PlainText(), keep) == "\t3 here"


@pytest.mark.parametrize("form", [Markdown(), PlainText()])
@pytest.mark.parametrize(
    "part",
    [
        "<td rowspan=65534 colspan=1000>" + "a" * 9,
        "<tr>" + "<td rowspan=65534>abcdefgh" * 9,
        "<tr><td colspan=1000>a",
    ],
)
def test_the_output_grows_with_the_page(form, part):
    few, many = (len(rendered(units(part * n), form)) for n in (50, 200))
    assert many <= 5 * few + 2000
    heads = "".join(f"<td rowspan=65534>{n} long text" for n in range(300))
    page = f"<tr>{heads}" + "<tr>" * 300 + "<tr><td>a" * 300
    assert len(rendered(units(page), form)) < 40 * len(page)


cells = st.builds(
    "<td{}{}>{}".format,
    st.sampled_from(["", " colspan=2", " colspan=3", " colspan=99999999999"]),
    st.sampled_from(["", " rowspan=2", " rowspan=0", " rowspan=x"]),
    st.sampled_from(["", "a", "b c", "<b>d</b>"]),
)


@given(
    st.lists(st.one_of(cells, st.sampled_from(["<tr>", "<tbody>", "<thead>", "<tr>"])), max_size=20),
    st.integers(0, 2**20),
)
def test_any_spans(parts, bits):
    """Every kept word is there, and an end of the table is reached whatever it holds."""
    found = units("".join(parts))
    keep = [bool(bits >> n & 1) for n in range(len(found))]
    words = {w for t, k in zip(found.texts, keep, strict=True) if k for w in t.split()}
    for form in (Markdown(), PlainText()):
        shown = rendered(found, form, keep).replace("|", " ").replace("<br>", " ")
        assert words == {w for w in shown.split() if w.isalpha()}
