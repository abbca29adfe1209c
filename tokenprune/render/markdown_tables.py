"""Tables in Markdown: GitHub Flavored Markdown 0.29, section 4.10."""

from __future__ import annotations

from collections.abc import Callable

from tokenprune.render.places import Parts
from tokenprune.segment.html_tags import CELLS, HEADINGS, PRE, read_tag, tag_attributes

_WIDEST = 50  # columns that one cell may span


class Table:
    """An open table; one that another block interrupts goes on as a table of its own.

    Args:
        piece: its start tag.
        text: all pieces of the document, kept or not.
        tag: which of them are tags.
        out: what is written to.

    Attributes:
        rows: written so far.
        cells: of the open row.
        in_head: whether the rows stand in a ``thead``.
    """

    def __init__(self, piece: int, text: list[str], tag: list[bool], out: Parts) -> None:
        self.rows = self.cells = 0
        self.in_head = False
        self._piece, self._text, self._tag, self._out = piece, text, tag, out
        self._row = -1  # start tag of the open row
        self._rest = ""  # what lines begin with
        self._columns = 0
        self._span = 1
        self._before = self._behind = -1  # parts in front of the first row and behind it
        self._headers_only = True  # whether the first row holds nothing but <th>
        self._has_header = False
        self._header_cells = 0

    def open_row(self, i: int) -> None:
        """Begin a row; nothing is written before its first cell."""
        self.close_row(i)
        self._row = i

    def open_cell(self, i: int, name: str, last: int, begin: Callable[[int], str]) -> None:
        """Begin a cell.

        Args:
            i: its start tag.
            name: of the tag.
            last: the piece read before it.
            begin: begins a block and returns what its lines begin with.
        """
        missing = self._dropped_cells(last, i) if self._row >= 0 else 0
        if self._row < 0:
            self._row = i
        if not self.rows and not self.cells:
            self._rest = begin(i)
            self._before = self._out.add("", i)
            self._headers_only = True
        elif not self.cells:
            self._out.add("\n" + self._rest, i)
        self._headers_only = self._headers_only and name == "th"
        if missing:
            self._out.add("| " * missing, i)
        self.cells += missing + 1
        tag = self._text[i]
        span = tag_attributes(tag).get("colspan", "1") if len(tag) > 4 else "1"
        self._span = min(max(1, int(span)), _WIDEST) if span.isdecimal() and len(span) < 5 else 1
        self._out.add("| ", i)

    def close_cell(self, i: int, *, empty: bool) -> None:
        """End a cell; one that spans several columns fills them with empty ones."""
        if not empty:
            self._out.add(" ", i)
        if self._span > 1:
            self._out.add("| " * (self._span - 1), i)
            self.cells += self._span - 1

    def close_row(self, i: int) -> None:
        """End the open row, if there is one."""
        if self.cells:
            self._out.add("|", i)
            self._columns = max(self._columns, self.cells)
            if not self.rows:
                self._header_cells = self.cells
                self._has_header = self.in_head or self._headers_only or self._is_first_row()
                self._behind = self._out.add("", i)
            self.rows += 1
            self.cells = 0
        self._row = -1

    def end(self, i: int) -> bool:
        """Write the delimiter row, now that the columns are known; return whether there is a table."""
        if not self.rows and not self.cells:
            return False
        self.close_row(i)
        delimiter = "|" + "---|" * self._columns
        end = "\n" + self._rest
        if self._has_header:
            missing = " |" * (self._columns - self._header_cells)
            self._out.text[self._behind] = missing + end + delimiter
        else:
            self._out.text[self._before] = "|" + " |" * self._columns + end + delimiter + end
        self.rows = self._columns = 0
        return True

    def _is_first_row(self) -> bool:
        """Whether the open row is the first of the original table."""
        for j in range(self._piece + 1, self._row + 1):
            if self._tag[j] and read_tag(self._text[j])[0] in ("tr", "td", "th"):
                return j == self._row
        return False

    def _dropped_cells(self, last: int, i: int) -> int:
        """How many cells are dropped between two pieces of a row: the columns depend on them."""
        cells = depth = 0
        for j in range(last + 1, i):
            if self._tag[j]:
                name, closing = read_tag(self._text[j])
                if name == "table":
                    depth += -1 if closing else 1
                elif name in CELLS and not closing and not depth:
                    cells += 1
        return cells


def layout_tables(kept: list[int], text: list[str], tag: list[bool]) -> set[int]:
    """Return the start tags of tables that hold headings or code of several lines.

    They lay out a page: a single line per cell cannot hold what is in them.

    Args:
        kept: the pieces that are rendered, ascending.
        text: all pieces.
        tag: which of them are tags.
    """
    found: set[int] = set()
    if not any(tag[i] and text[i].startswith("<table") for i in kept):
        return found
    tables: list[int] = []
    marked = pre = 0  # how many of the open tables, outer ones first, are found already
    for i in kept:
        if not tag[i]:
            if pre and marked < len(tables) and "\n" in text[i].strip("\n"):
                found.update(tables[marked:])
                marked = len(tables)
            continue
        name, closing = read_tag(text[i])
        if name == "table":
            if not closing:
                tables.append(i)
            elif tables:
                tables.pop()
                marked = min(marked, len(tables))
        elif name in PRE:
            pre += -1 if closing else 1
        elif name in HEADINGS:
            found.update(tables[marked:])
            marked = len(tables)
    return found
