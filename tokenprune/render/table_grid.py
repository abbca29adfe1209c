"""The columns of a table: cells that span several columns or rows (HTML standard, section 4.9.12)."""

from __future__ import annotations

import re
from typing import NamedTuple

from tokenprune.render.places import source_attributes
from tokenprune.segment.html_spans import TALLEST, WIDEST, span
from tokenprune.segment.html_tags import CELLS, read_tag
from tokenprune.units import Pieces

_GROUPS = frozenset(("thead", "tbody", "tfoot"))
# What is written again in rows below may be this many times as long as the table, and somewhat more.
_AGAIN, _MORE = 4, 1000
_EMPTY_ROW = re.compile(r"<tr((?:\s[^<>]*)?)>\s*(?:</tr\s*>|(?=<tr|\Z))", re.I)


class _Spanning(NamedTuple):
    """A cell that reaches into rows below."""

    last: int  # row
    width: int
    cell: int  # its start tag


class Grid:
    """Follows a table through all its cells, kept or not, and says what stands in the columns between.

    A cell that spans rows is written in each of them, so that each can be read alone, if it was kept; one
    that spans columns fills the others with nothing.

    Args:
        pieces: of the document.
        tag: which of them are tags.
        table: the start tag of the table.
    """

    def __init__(self, pieces: Pieces, tag: list[bool], table: int) -> None:
        self._pieces, self._tag, self._at = pieces, tag, table
        self._row = self._column = self._depth = 0
        self._spanning: dict[int, _Spanning] = {}  # by column
        self._text: dict[int, str | None] = {}  # of cells that span rows, by start tag; None: not kept
        self._between: list[str] = []  # columns of the row that were not asked for yet
        self._end = -1  # place in the source where the last row ends
        self._left = _MORE

    def cell(self, i: int) -> tuple[list[str], int]:
        """Go on to a cell; return the texts of the columns left of it and how many columns it spans."""
        self._walk(i)
        self._fill()
        between, self._between = self._between, []
        return between, self._place(i)

    def said(self, i: int, text: str) -> None:
        """Note what stands in a cell, as it is written."""
        self._left += _AGAIN * len(text)
        if i in self._text:
            self._text[i] = text

    def end_row(self, i: int) -> list[str]:
        """Go on to the end of a row; return the texts of the columns right of its last cell."""
        self._walk(i)
        self._fill()
        between, self._between = self._between, []
        while between and not between[-1]:
            between.pop()
        return between

    def _walk(self, to: int) -> None:
        """Pass the cells and rows before a piece; those met here are not kept."""
        for j in range(self._at + 1, to):
            if not self._tag[j]:
                continue
            name, closing = read_tag(self._pieces.text[j])
            if name == "table":
                self._depth += -1 if closing else 1
            elif self._depth:
                continue
            elif name == "tr":
                self._left += _AGAIN
                if closing:
                    self._end = int(self._pieces.src_start[j])
                else:
                    self._row += 1 + self._empty_rows(j)
                    self._column = 0
                    self._between.clear()
            elif name in CELLS and not closing:
                self._fill()
                self._between += [""] * self._place(j)
            elif name in _GROUPS:
                self._spanning.clear()
        self._at = max(self._at, to - 1)

    def _empty_rows(self, row: int) -> int:
        """How many rows without cells, which cleaning takes out, stand between the last row and this one."""
        source, start = self._pieces.source, int(self._pieces.src_start[row])
        if self._end < 0 or not self._spanning:
            return 0
        rows = _EMPTY_ROW.findall(source[self._end : start])
        return sum("hidden" not in tag and "none" not in tag for tag in rows)

    def _fill(self) -> None:
        """Pass the columns that cells of rows above take."""
        while (s := self._spanning.get(self._column)) is not None:
            text = self._text[s.cell] or ""
            self._left -= len(text) + 2 * s.width
            if s.last < self._row:
                del self._spanning[self._column]
                return
            if self._left < 0:
                self._spanning.clear()
                return
            self._between += [text, *[""] * (s.width - 1)]
            self._column += s.width

    def _place(self, i: int) -> int:
        """Put a cell into the open row; return how many columns it spans."""
        found = source_attributes(self._pieces, i)
        width = max(1, span(found.get("colspan", ""), WIDEST))
        rows = span(found.get("rowspan", ""), TALLEST)
        if rows != 1:
            last = self._row + (rows or TALLEST) - 1
            self._spanning[self._column] = _Spanning(last, width, i)
            self._text[i] = None
        self._column += width
        self._left += _AGAIN
        self._at = max(self._at, i)
        return width
