"""Plain text out of HTML units."""

from __future__ import annotations

from dataclasses import dataclass
from html import unescape

import numpy as np

from tokenprune.arrays import BoolArray
from tokenprune.render.places import Parts
from tokenprune.render.scripts import MATH, Formulas, script
from tokenprune.render.table_grid import Grid
from tokenprune.segment.html_tags import BLOCKS, CELLS, PRE, read_tag, tag_attributes
from tokenprune.units import Pieces, Rendered, Units

_ONE_LINE = dict.fromkeys(map(ord, "\t\n\r\f"), " ")
_LINES = (BLOCKS - CELLS) | {"br"}


@dataclass(frozen=True)
class PlainText:
    """Words without markup: a line per block, cells of a row set apart by tabs, code line by line.

    Descriptions of pictures are written where a segmenter kept them (``keep_attributes``): ``[a cat]``.
    """

    def render(self, units: Units, keep: BoolArray) -> Rendered:
        """Return the kept words."""
        pieces, mask = units.pieces, units.piece_mask(keep)
        if pieces.tag is None:
            return pieces.join(mask)
        return _Writer(pieces, pieces.tag.tolist()).write(np.flatnonzero(mask).tolist())


class _Writer:
    """Reads kept pieces in order and writes lines."""

    def __init__(self, pieces: Pieces, tag: list[bool]) -> None:
        self.pieces, self.tag = pieces, tag
        self.out = Parts()
        self.end = "\n"  # how the text so far ends, to write one line end where blocks meet
        self.last = -2  # the piece read last
        self.gap = False  # whether something was dropped since the last text
        self.picture = False  # whether a picture stands between it and the next
        self.pre = 0
        self.cell = 0  # depth of cells
        self.cells = 0  # begun in the open row
        self.grids: list[Grid] = []  # of open tables
        self.scripts: list[tuple[int, str]] = []  # first part of each open sub or sup, what stands before it
        self.formulas = Formulas(lambda: self.out.text, lambda text, i: self.out.add(text, i))
        self.opened = self.content = self.span = 0  # start tag, first part and columns of the open cell

    def write(self, kept: list[int]) -> Rendered:
        text, out, tag = self.pieces.text, self.out, self.tag
        for i in kept:
            self.gap = self.gap or i > self.last + 1
            if tag[i]:
                self._tag(i, *read_tag(text[i]))
            else:
                self._words(i, text[i])
            self.last = i
        while out.text and not out.text[-1].strip("\n\t"):
            del out.text[-1], out.piece[-1], out.literal[-1]
        if out.text:
            out.text[-1] = out.text[-1].rstrip("\n\t")
        return out.rendered(self.pieces)

    def _mark(self, text: str, i: int) -> None:
        self.out.add(text, i)
        self.end = text

    def _words(self, i: int, piece: str) -> None:
        apart = self.end.isspace()
        if self.pre:
            if self.last == i - 1 and self.pieces.text[self.last].startswith("<pre"):
                piece = piece.removeprefix("\n")  # right behind the tag it does not count
            apart = self.end == "\n"
        elif piece.isspace() and apart:
            return
        if not piece:
            return
        if self.gap and not apart and not piece[0].isspace():
            # Where something between two texts is dropped, their words must not run together.
            self._mark("\n", i)
        elif self.picture and not apart and not self.pre and (piece[0].isalnum() or piece[0] in "(["):
            self._mark(" ", i)
        self.picture = False
        piece = unescape(piece)
        if not self.pre and len(piece) > 1:
            piece = piece.translate(_ONE_LINE)  # of code inside a line
        self.out.add(piece, i, literal=True)
        self.end = piece[-1]
        self.gap = False

    def _script(self, i: int, name: str, *, closing: bool) -> None:
        """Mark a raised or lowered letter as such where it would be read as one of its line."""
        text = self.out.text
        if not closing:
            before = "" if self.gap or self.end.isspace() else "".join(text[-3:])[-8:]
            self.scripts.append((self.out.add("", i), before))
        elif self.scripts:
            part, before = self.scripts.pop()
            text[part], behind = script(name, before, "".join(text[part:]))
            if behind:
                self._mark(behind, i)

    def _picture(self, i: int) -> None:
        """Write the description of a picture, if a segmenter kept it."""
        alt = " ".join(unescape(tag_attributes(self.pieces.text[i]).get("alt", "")).split())
        if alt and not self.pre:
            if not self.end.isspace() and (self.end.isalnum() or self.end in ".,;:!?)]"):
                self._mark(" ", i)
            self._mark(f"[{alt}]", i)
        self.picture = True

    def _tag(self, i: int, name: str, closing: bool) -> None:
        if name == "img":
            self._picture(i)
            return
        if name in ("sub", "sup") and not self.pre:
            self._script(i, name, closing=closing)
            return
        if name in MATH and not self.pre:
            (self.formulas.end if closing else self.formulas.start)(name, i)
            return
        if name in PRE:
            self.pre += -1 if closing else 1
        if name in CELLS:
            self.cell += -1 if closing else 1
            if not closing and self.cell == 1:
                self._open_cell(i)
            elif closing and not self.cell:
                self._close_cell(i)
                self.gap = True  # words behind a cell that stands in no row are not part of its last one
            elif not self.end.isspace():  # a cell inside one
                self._mark(" ", i)
            return
        if name == "table" and not self.cell:
            if not closing:
                self.grids.append(Grid(self.pieces, self.tag, i))
            elif self.grids:
                self.grids.pop()
        elif name == "tr" and closing and self.cells and not self.cell and self.grids:
            self._fill(self.grids[-1].end_row(i), i)
        if name in _LINES:
            if name == "tr" and not self.cell:
                self.cells = 0
            if self.cell and not self.pre:  # a row is one line, whatever its cells hold
                if not self.end.isspace():
                    self._mark(" ", i)
            elif self.end != "\n":
                self._mark("\n", i)

    def _next_column(self, i: int) -> None:
        if self.cells:
            self._mark("\t", i)
        elif not self.end.isspace():
            self._mark(" ", i)
        self.cells += 1

    def _fill(self, columns: list[str], i: int) -> None:
        """Write columns that no cell of the row stands in."""
        for text in columns:
            self._next_column(i)
            if text:
                self._mark(text, i)

    def _open_cell(self, i: int) -> None:
        between, self.span = self.grids[-1].cell(i) if self.grids else ([], 1)
        self._fill(between, i)
        self._next_column(i)
        self.opened, self.content = i, len(self.out.text)

    def _close_cell(self, i: int) -> None:
        if self.grids:
            self.grids[-1].said(self.opened, " ".join("".join(self.out.text[self.content :]).split()))
        self._fill([""] * (self.span - 1), i)
