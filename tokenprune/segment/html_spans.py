"""Cells that span columns or rows, written as a table without spans: each cell in its own column.

A row may be pruned, and ``rowspan`` would then reach into others. So empty cells fill the columns that no
cell of a row stands in (HTML standard, section 4.9.12), but for those behind its last one.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import numpy as np

from tokenprune.arrays import IntArray
from tokenprune.segment.html_page import OPEN, CleanPage
from tokenprune.segment.html_source import Source, attributes_of
from tokenprune.segment.html_tags import CELLS, SECTIONS, attributes

WIDEST = 50  # columns that one cell may span
TALLEST = 65534  # rows; the standard's bound
FILLER = "<td></td>"
# So many empty cells for each cell of a table, and somewhat more.
_AGAIN, _MORE = 4, 100


class _Reach(NamedTuple):
    """A cell that reaches into rows below."""

    last: int  # row
    width: int


class _Table:
    """The columns of a table, cell by cell."""

    def __init__(self) -> None:
        self._row = self._column = self._empty = 0
        self._group = -1  # the element around the open row
        self._reaching: dict[int, _Reach] = {}  # by column
        self._rows: list[tuple[int, int]] = []  # element, last row its cells reach into
        self._left = _MORE

    def open_row(self, group: int) -> int:
        """Begin a row; return the last row of those whose cells reach into it, -1 for none."""
        if group != self._group:  # cells do not reach out of a tbody
            self._reaching.clear()
            self._rows.clear()
        self._group, self._row, self._column, self._empty = group, self._row + 1, 0, 0
        while self._rows and self._rows[-1][1] < self._row:
            self._rows.pop()
        return self._rows[-1][0] if self._rows else -1

    def cell(self, row: int, columns: int, rows: int, *, wide: bool) -> int:
        """Put a cell into the open row; return how many empty columns stand before it.

        Args:
            row: the element.
            columns: that the cell spans.
            rows: that it spans, 0 for all.
            wide: whether its tag says so; then nothing has to fill its columns.
        """
        while (found := self._reaching.get(self._column)) is not None:
            if found.last < self._row:
                del self._reaching[self._column]
                break
            self._skip(found.width)
        if rows != 1:
            last = self._row + (rows or TALLEST) - 1
            self._reaching[self._column] = _Reach(last, columns)
            if self._rows and self._rows[-1][0] == row:
                last = max(last, self._rows.pop()[1])
            self._rows.append((row, last))
        self._left += _AGAIN
        fill, self._empty = self._empty, 0
        self._column += columns if wide else 1
        self._skip(0 if wide else columns - 1)
        return fill

    def _skip(self, columns: int) -> None:
        self._column += columns
        self._left -= columns
        if self._left < 0:
            self._reaching.clear()
        else:
            self._empty += columns


def span(value: str, most: int) -> int:
    """A span as browsers read it: 1 where it is none."""
    digits = value.strip()
    return min(int(digits[:6]), most) if digits.isascii() and digits.isdigit() else 1


def fill_columns(page: CleanPage, source: Source, mark: IntArray, keep: Collection[str]) -> None:
    """Write the empty cells of a page and note which rows are read with one above them.

    Args:
        page: changed in place.
        source: what it was made of.
        mark: int64 [m], the tag of the source that each element of the page begins with, -1 for none.
        keep: attributes that stay; what they say is left to them.
    """
    cells = np.flatnonzero(np.fromiter(map(CELLS.__contains__, page.tag), dtype=bool, count=len(page.tag)))
    known = cells[mark[cells] >= 0]
    written = list(map(source.tag.__getitem__, mark[known].tolist()))
    spans = {tag: found for tag in set(written) if (found := _spans(tag, keep)) != (1, 1)}
    if not spans:
        return
    of = {cell: spans[tag] for cell, tag in zip(known.tolist(), written, strict=True) if tag in spans}
    tables = {_table(page, page.parent[cell]): _Table() for cell in of}
    tables.pop(-1, None)
    fill: dict[int, int] = {}
    rows: dict[int, _Table] = {}
    for node, tag in enumerate(page.tag):
        if tag == "tr" and (table := tables.get(_table(page, node))) is not None:
            rows[node] = table
            page.above[node] = table.open_row(page.parent[node])
        elif tag in CELLS and (table := rows.get(page.parent[node])) is not None:
            empty = table.cell(page.parent[node], *of.get(node, (1, 1)), wide="colspan" in keep)
            if empty:
                fill[node] = empty
    opens = np.flatnonzero(page.kinds == OPEN)
    for event in opens[np.isin(page.nodes[opens], list(fill))].tolist():
        page.text[event] = FILLER * fill[page.node[event]] + page.text[event]
        page.filled.append(event)


def _spans(tag: str, keep: Collection[str]) -> tuple[int, int]:
    """Columns and rows of a cell by its tag, as it is written without brackets."""
    if "span" not in tag.lower():
        return 1, 1
    found = attributes(attributes_of(tag))
    rows = 1 if "rowspan" in keep else span(found.get("rowspan", ""), TALLEST)
    return max(1, span(found.get("colspan", ""), WIDEST)), rows


def _table(page: CleanPage, row: int) -> int:
    """The table that a row stands in, -1 for none."""
    around = page.parent[row] if row >= 0 and page.tag[row] == "tr" else -1
    if around >= 0 and page.tag[around] in SECTIONS:
        around = page.parent[around]
    return around if around >= 0 and page.tag[around] == "table" else -1
