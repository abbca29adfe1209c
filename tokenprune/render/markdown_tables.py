"""Tables in Markdown: GitHub Flavored Markdown 0.29, section 4.10."""

from __future__ import annotations

from collections.abc import Callable

from tokenprune.render.places import Parts
from tokenprune.render.table_grid import Grid
from tokenprune.segment.html_tags import HEADINGS, PRE, read_tag
from tokenprune.units import Pieces


class Table:
    """An open table; one that another block interrupts goes on as a table of its own.

    Args:
        piece: its start tag.
        pieces: all of the document, kept or not.
        tag: which of them are tags.
        out: what is written to.

    Attributes:
        rows: written so far.
        cells: of the open row.
        in_head: whether the rows stand in a ``thead``.
    """

    def __init__(self, piece: int, pieces: Pieces, tag: list[bool], out: Parts) -> None:
        self.rows = self.cells = 0
        self.in_head = False
        self._piece, self._text, self._tag, self._out = piece, pieces.text, tag, out
        self._grid = Grid(pieces, tag, piece)
        self._row = -1  # start tag of the open row
        self._rest = ""  # what lines begin with
        self._columns = 0
        self._cell, self._span = -1, 1  # start tag of the open cell, and how many columns it spans
        self._before = self._behind = -1  # parts in front of the first row and behind it
        self._headers_only = True  # whether the first row holds nothing but <th>
        self._has_header = False
        self._header_cells = 0

    def open_row(self, i: int) -> None:
        """Begin a row; nothing is written before its first cell."""
        self.close_row(i)
        self._row = i

    def open_cell(self, i: int, name: str, begin: Callable[[int], str]) -> None:
        """Begin a cell.

        Args:
            i: its start tag.
            name: of the tag.
            begin: begins a block and returns what its lines begin with.
        """
        between, self._span = self._grid.cell(i)
        self._cell = i
        if self._row < 0:
            self._row = i
        if not self.rows and not self.cells:
            self._rest = begin(i)
            self._before = self._out.add("", i)
            self._headers_only = True
        elif not self.cells:
            self._out.add("\n" + self._rest, i)
        self._headers_only = self._headers_only and name == "th"
        self._fill(between, i)
        self.cells += 1
        self._out.add("| ", i)

    def _fill(self, columns: list[str], i: int) -> None:
        """Write columns that no cell of the row stands in."""
        if columns:
            self._out.add("".join(f"| {text} " if text else "| " for text in columns), i)
            self.cells += len(columns)

    def close_cell(self, i: int, text: str) -> None:
        """End a cell that holds this text; one that spans several columns fills them with empty ones."""
        self._grid.said(self._cell, text)
        if text:
            self._out.add(" ", i)
        if self._span > 1:
            self._out.add("| " * (self._span - 1), i)
            self.cells += self._span - 1

    def close_row(self, i: int) -> None:
        """End the open row, if there is one."""
        if self.cells:
            self._fill(self._grid.end_row(i), i)
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
        """Whether the open row is the first of the original table, and no footer."""
        for j in range(self._piece + 1, self._row + 1):
            if self._tag[j] and read_tag(self._text[j])[0] in ("tr", "td", "th", "tfoot"):
                return j == self._row
        return False


def layout_tables(kept: list[int], text: list[str], tag: list[bool]) -> set[int]:
    """Return the start tags of tables that hold headings or code of several lines, and have no header.

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
    return found - _with_header(min(found), text, tag) if found else found


def _with_header(first: int, text: list[str], tag: list[bool]) -> set[int]:
    """The tables from a place on that have a thead, or more than one th."""
    found: set[int] = set()
    tables: list[tuple[int, int]] = []  # open ones, and how many th each of them has so far
    for i in range(first, len(text)):
        name, closing = read_tag(text[i]) if tag[i] else ("", False)
        if name == "table":
            if not closing:
                tables.append((i, 0))
            elif tables:
                tables.pop()
        elif name in ("th", "thead") and not closing and tables:
            table, heads = tables.pop()
            tables.append((table, heads + 1))
            if heads or name == "thead":
                found.add(table)
    return found
