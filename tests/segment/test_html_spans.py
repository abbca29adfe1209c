"""Cells that span columns or rows: in the output every cell stands in its own column, whatever is pruned."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tokenprune.document import Document
from tokenprune.segment.html_blocks import HtmlBlocks
from tokenprune.segment.html_clean import clean
from tokenprune.segment.html_page import CLOSE, OPEN
from tokenprune.tokens import get_counter


def cleaned(source, keep=()):
    page = clean(source, keep)
    rows = zip(page.kind, page.node, page.text, strict=True)
    return "".join(text for kind, node, text in rows if kind not in (OPEN, CLOSE) or page.alive[node])


def columns(table):
    """Where each cell with words stands, (row, column) by word: the grid of the standard, slot by slot."""
    taken, found, groups = {}, {}, []
    row = -1
    for tr in table.find_all("tr"):
        if not groups or tr.parent is not groups[-1]:  # cells do not reach out of their part of the table
            taken = {slot: cell for slot, cell in taken.items() if slot[0] <= row}
            groups.append(tr.parent)
        row, column = row + 1, 0
        for cell in tr.find_all(["td", "th"]):
            while (row, column) in taken:
                column += 1
            wide, tall = int(cell.get("colspan", 1)), int(cell.get("rowspan", 1))
            slots = [(row + y, column + x) for y in range(tall or 40) for x in range(wide)]
            assume(not any(slot in taken for slot in slots))  # an error of the table
            taken.update(dict.fromkeys(slots, cell))
            for word in cell.get_text().split():
                found[word] = (row, column)
            column += wide
    return found


CASES = {
    "rows": (
        "<tr><th>A<th>B<tr><td rowspan=3>x<td>1<tr><td>2<tr><td>3<tr><td>y<td>4",
        "<tr><th>A<th>B<tr><td>x<td>1<tr><td><td>2<tr><td><td>3<tr><td>y<td>4",
    ),
    "columns": (
        "<tr><th COLSPAN='2'>A<th>B<tr><td>1<td colspan=2>2<tr><td>3<td>4<td>5",
        "<tr><th>A<td><th>B<tr><td>1<td>2<tr><td>3<td>4<td>5",
    ),
    "behind the last cell": (
        "<tr><td>1<td rowspan=2>x<td rowspan=2>y<tr><td>2<tr><td>3<td>4<td>5",
        "<tr><td>1<td>x<td>y<tr><td>2<tr><td>3<td>4<td>5",
    ),
    "both": (
        "<tr><th rowspan=2>A<th colspan=2>B<th>C<tr><th>b<th>c<td>d<tr><td rowspan=2 colspan=2>x<td>1<tr><td>2",
        "<tr><th>A<th>B<td><th>C<tr><td><th>b<th>c<td>d<tr><td>x<td><td>1<tr><td><td><td>2",
    ),
    "groups end it": (
        "<thead><tr><th rowspan=9>A<th>B</thead><tbody><tr><td rowspan=0>x<td>1<tr><td>2</tbody><tbody><tr><td>y<td>3</tbody>",
        "<thead><tr><th>A<th>B</thead><tbody><tr><td>x<td>1<tr><td><td>2</tbody><tbody><tr><td>y<td>3</tbody>",
    ),
    "rows without cells": (
        "<tr><td rowspan=2>a<td>1<tr></tr><tr><td>b<td>2",
        "<tr><td>a<td>1<tr><td>b<td>2",
    ),
    "hidden rows": (
        "<tr><td rowspan=2>a<td>1<tr hidden><td>gone</tr><tr><td>2",
        "<tr><td>a<td>1<tr><td><td>2",
    ),
    "no numbers": (
        "<tr><td colspan=x rowspan=-2>a<td colspan=0>b<tr><td>c<td>d",
        "<tr><td>a<td>b<tr><td>c<td>d",
    ),
    "tables in it": (
        "<tr><td rowspan=2>a<td>1<tr><td><table><tr><td colspan=2>b<td>c<tr><td>d<td>e<td>f</table><td>g",
        "<tr><td>a<td>1<tr><td><td><table><tr><td>b<td><td>c<tr><td>d<td>e<td>f</table><td>g",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_empty_cells_hold_the_columns(name, read_html):
    source, expected = (f"<table>{part}</table>" for part in CASES[name])
    once = cleaned(source)
    assert once == cleaned(expected)
    assert cleaned(once) == once
    assert read_html.words(once) == [w for w in read_html.words(source) if w != "gone"]


def test_the_short_form_has_no_end_tags():
    source, expected = (f"<table>{part}</table>" for part in CASES["both"])
    units = HtmlBlocks(100).segment(Document(source, kind="html"), get_counter())
    assert units.pieces.join(np.ones(len(units.pieces.text), dtype=bool)).text == expected


def test_attributes_that_stay_say_it_themselves():
    source = "<table><tr><td rowspan=2>a<td colspan=2>b<td>c<tr><td>d<td>e<td>f</table>"
    assert cleaned(source, ("rowspan", "colspan")).count("<td></td>") == 0
    assert cleaned(source, ("colspan",)) == (
        '<table><tr><td>a</td><td colspan="2">b</td><td>c</td></tr>'
        "<tr><td></td><td>d</td><td>e</td><td>f</td></tr></table>"
    )
    assert cleaned(source, ("rowspan",)) == (
        '<table><tr><td rowspan="2">a</td><td>b</td><td></td><td>c</td></tr>'
        "<tr><td>d</td><td>e</td><td>f</td></tr></table>"
    )


def test_a_row_is_led_by_the_row_whose_cell_reaches_into_it():
    table = (
        "<tr><th>Year<th>Team<th>Goals<tr><td rowspan=3>1999<td rowspan=2>a b c<td>1<tr><td>d e f"
        "<tr><td>g<td>h i<tr><td>j k<td>l<td>m"
    )
    units = HtmlBlocks(1).segment(Document(f"<table>{table}</table>", kind="html"), get_counter())
    texts = ["Year Team Goals", "1999", "a b c", "1", "d e f", "g h i", "j k l m"]
    assert " ".join(units.texts).split() == " ".join(texts).split()  # the second row is cut into its cells
    units = HtmlBlocks(2).segment(Document(f"<table>{table}</table>", kind="html"), get_counter())
    assert units.texts == ["Year Team Goals", "1999 a b c 1", "d e f", "g h i", "j k l m"]
    assert units.lead.tolist() == [-1, 0, 1, 1, 0]
    assert units.along.tolist() == [False, True, False, False, False]


cells = st.tuples(
    st.sampled_from(["", " colspan=2", " colspan=3"]), st.sampled_from(["", "", " rowspan=2", " rowspan=0"])
).map("".join)
rows = st.lists(st.lists(cells, min_size=1, max_size=4), min_size=1, max_size=5)


@given(parts=st.lists(rows, min_size=1, max_size=2), size=st.integers(1, 40), data=st.data())
def test_columns_of_any_table(parts, size, data, read_html):
    """Of what is kept of any table, the columns are those of the whole."""
    count = iter(range(1000))
    source = "".join(
        "<tbody>"
        + "".join(f"<tr>{''.join(f'<td{c}>w{next(count)}' for c in row)}" for row in group)
        + "</tbody>"
        for group in parts
    )
    source = f"<table>{source}</table>"
    expected = columns(read_html.soup(source))
    units = HtmlBlocks(size).segment(Document(source, kind="html"), get_counter())
    keep = np.asarray(
        data.draw(st.lists(st.booleans(), min_size=len(units), max_size=len(units))), dtype=bool
    )
    for brief in (True, False):
        found = columns(read_html.soup(units.pieces.join(units.piece_mask(keep), brief=brief).text))
        assert {w: column for w, (_, column) in found.items()} == {w: expected[w][1] for w in found}
        assert len(found) == len(
            " ".join(t for t, k in zip(units.texts, keep.tolist(), strict=True) if k).split()
        )
