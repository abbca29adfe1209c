"""Markdown out of HTML units: CommonMark with the tables of GFM, in few tokens.

Every visible word of the kept units stays, and a CommonMark parser reads the same words back. Blocks are
parted by an empty line, list items and rows by a line end; list items keep the number they had. The cells of
a table hold one line each, code as a span for each of its lines; a table that holds headings or code of
several lines, and has no header, only lays out a page, and its cells become blocks.

A GFM table needs a header row. It is the first row of the original table where that is kept, or a row of
``th`` cells; otherwise an empty one is written: a row of data in its place would give the columns wrong
names, and the empty one costs about a token a column.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tokenprune.arrays import BoolArray
from tokenprune.render.item_numbers import item_numbers
from tokenprune.render.markdown_escape import BREAK, MARK, fence_of
from tokenprune.render.markdown_line import SPACES, Line, Part
from tokenprune.render.markdown_tables import Table, layout_tables
from tokenprune.render.places import Parts
from tokenprune.render.scripts import MATH, WHITE
from tokenprune.segment.html_tags import BLOCKS, CELLS, HEADINGS, LIST_TAGS, PRE, read_tag
from tokenprune.units import Pieces, Rendered, Units

_ITEMS = frozenset(("li", "dd", "option"))
_OWN_LINES = _ITEMS | {"dt", "tr", "br"}  # parted by <br> where a cell holds them
# Items and quotes nested deeper get no indent: every line would pay for all those around it.
_DEEPEST = 10
_LARGEST = 999_999_999  # number of an item, in CommonMark


@dataclass(frozen=True)
class Markdown:
    """Headings, lists, code, quotes and tables in Markdown; text documents pass unchanged.

    Links and images are written where a segmenter kept their attributes (``keep_attributes``).
    """

    def render(self, units: Units, keep: BoolArray) -> Rendered:
        """Return the kept units as Markdown."""
        mask = units.piece_mask(keep)
        if units.pieces.tag is None:
            return units.pieces.join(mask)
        return _Writer(units.pieces, units.pieces.tag).write(np.flatnonzero(mask).tolist())


@dataclass
class _List:
    """An open list."""

    ordered: bool
    last: int = -1  # how many blocks there were when its last item ended


@dataclass
class _Container:
    """A list item or quote around blocks: what its first line begins with, and the others."""

    first: str
    rest: str
    name: str
    list: _List | None = None
    started: bool = False


class _Writer:
    """Reads kept pieces in order and writes Markdown."""

    def __init__(self, pieces: Pieces, tag: BoolArray) -> None:
        self.pieces, self.tag = pieces, tag.tolist()
        self.out = Parts()
        self.line = Line()
        self.blocks = 0  # written so far
        self.last_kind = ""
        self.last_quotes = 0  # around the last block
        self.stack: list[_Container] = []
        self.rest = ""  # what lines of the current block begin with
        self.numbers = item_numbers(pieces)
        self.lists: list[_List] = []
        self.loose = _List(ordered=False)  # of items outside a list
        self.tables: list[Table | None] = []  # None: one that only lays out
        self.layout: set[int] = set()
        self.flat = 0  # depth of elements that hold a single line: headings and cells
        self.in_cell = False
        self.pre = 0
        self.in_term = 0

    def write(self, kept: list[int]) -> Rendered:
        text, tag, line = self.pieces.text, self.tag, self.line
        self.layout = layout_tables(kept, text, tag)
        for i in kept:
            piece = text[i]
            if tag[i]:
                name, closing = read_tag(piece)
                handler = (_CLOSE if closing else _OPEN).get(name)
                if handler is not None:
                    handler(self, i, name)
            elif self.pre:
                self._preformatted(i, piece)
            else:
                line.words(i, piece)
            line.last = i
        self._flush()
        return self.out.rendered(self.pieces)

    # -- blocks ---------------------------------------------------------------------------------------

    def _begin(self, i: int) -> str:
        """Write what stands between the last block and a new one; return what its lines begin with."""
        self._end_table(self._table(), i)
        kept = "".join(c.rest for c in self.stack if c.started)
        gap = "" if not self.out.text else "\n" if self._tight() else "\n" + kept.rstrip() + "\n"
        prefix = ""
        for c in self.stack:
            prefix += c.rest if c.started else c.first
            c.started = True
        self.out.add(gap + prefix, i)
        self.rest = "".join(c.rest for c in self.stack)
        return self.rest

    def _tight(self) -> bool:
        """Whether a new block follows the last one without an empty line between them."""
        k = next((k for k, c in enumerate(self.stack) if not c.started), -1)
        if k < 0 or self.stack[k].list is None:
            return False
        item, above = self.stack[k], self.stack[k - 1] if k else None
        if self.last_quotes != sum(c.list is None for c in self.stack[:k]):
            return False
        if item.list is not None and item.list.last == self.blocks:
            return True
        if self.last_kind == "dt" and item.name == "dd":
            return True
        inside = above is not None and above.list is not None and self.last_kind in ("p", "dt")
        return inside and item.first in ("- ", "1. ")  # others do not end a paragraph

    def _done(self, kind: str) -> None:
        self.blocks += 1
        self.last_kind = kind
        self.last_quotes = sum(c.list is None for c in self.stack)

    def _parts(self, parts: list[Part]) -> None:
        for text, piece, kind in parts:
            if kind == BREAK:
                self.out.add("  \n" + self.rest, piece)
            else:
                self.out.add(text, piece, literal=kind != MARK and not self.tag[piece])

    def _flush(self) -> None:
        """Write the paragraph read so far."""
        parts = self.line.take(block=True)
        if parts:
            self._begin(parts[0].piece)
            self._parts(parts)
            self._done("dt" if self.in_term else "p")

    def _edge(self, i: int, name: str) -> bool:
        """Meet the edge of a block; return whether it stands inside a line or preformatted text."""
        if self.flat:
            if self.pre and self.in_cell and name == "br":
                self.line.code_line(i)
            else:
                self.line.space(i, "<br>" if self.in_cell and name in _OWN_LINES else " ")
        elif self.pre:
            self.line.line_end(i)
        else:
            self._flush()
            return False
        return True

    def _block(self, i: int, name: str) -> None:
        self._edge(i, name)

    def _push(self, first: str, rest: str, name: str, items: _List | None) -> None:
        if len(self.stack) >= _DEEPEST:
            first = rest = ""
        self.stack.append(_Container(first, rest, name, items))

    def _pop(self, i: int, name: str) -> None:
        if self._edge(i, name) or not self.stack:
            return
        container = self.stack.pop()
        if container.list is not None and container.started:
            container.list.last = self.blocks

    def _open_quote(self, i: int, name: str) -> None:
        if not self._edge(i, name):
            self._push("> ", "> ", name, None)

    def _open_list(self, i: int, name: str) -> None:
        if not self._edge(i, name):
            self.lists.append(_List(name == "ol"))

    def _close_list(self, i: int, name: str) -> None:
        if not self._edge(i, name) and self.lists:
            self.lists.pop()

    def _open_item(self, i: int, name: str) -> None:
        if self._edge(i, name):
            return
        items = self.lists[-1] if self.lists else self.loose
        above = self.stack[-1] if self.stack else None
        if above is not None and above.list is items:  # libxml2 leaves a <dd> open that another one ends
            above.first = above.rest = ""
            items.last = self.blocks if above.started else items.last
        marker = "- "
        if items.ordered and len(self.stack) < _DEEPEST:
            marker = f"{min(max(0, self.numbers[i]), _LARGEST)}. "
        self._push(marker, " " * len(marker), name, items)

    def _open_term(self, i: int, name: str) -> None:
        if not self._edge(i, name):
            self.in_term += 1

    def _close_term(self, i: int, name: str) -> None:
        if not self._edge(i, name):
            self.in_term -= 1

    # -- preformatted text ----------------------------------------------------------------------------

    def _preformatted(self, i: int, piece: str) -> None:
        if self.flat and not self.in_cell:
            self.line.words(i, SPACES.sub(" ", piece))
            return
        after_tag = i == self.line.last + 1 and self.pieces.text[i - 1].startswith("<pre")
        if after_tag and (self.flat or not self.line.tail):
            piece = piece.removeprefix("\n")  # right behind the tag it does not count
        if not self.flat:
            self.line.verbatim(i, piece)
            return
        for n, text in enumerate(piece.split("\n")):
            if n:
                self.line.code_line(i)
            if text:
                self.line.words(i, text)

    def _open_pre(self, i: int, name: str) -> None:
        if self._edge(i, name) and self.flat:
            self.line.open_code(i)
        self.pre += 1

    def _close_pre(self, i: int, name: str) -> None:
        self.pre -= 1
        if self.flat:
            self.line.close_code(i)
            self.line.space(i)
        elif self.pre:
            self.line.line_end(i)
        else:
            self._write_pre(i)

    def _write_pre(self, i: int) -> None:
        parts = self.line.take_verbatim()
        content = "".join(part.text for part in parts)
        if not content.strip(WHITE):
            return
        fence = fence_of(content)
        first = parts[0].piece
        self._begin(first)
        rest = self.rest
        self.out.add(f"{fence}\n{rest}", first)
        for text, piece, kind in parts:
            if rest:
                bare = rest.rstrip()  # of empty lines
                text = text.replace("\n", "\n" + rest)
                for _ in range(2):  # the line ends of neighbours overlap
                    text = text.replace(f"\n{rest}\n", f"\n{bare}\n")
            self.out.add(text, piece, literal=kind != MARK)
        self.out.add(fence if content.endswith("\n") else f"\n{rest}{fence}", i)
        self._done("pre")

    # -- headings and cells: a single line -------------------------------------------------------------

    def _open_flat(self, i: int, name: str) -> None:
        inside = self._edge(i, name)
        if self.flat:
            self.flat += 1
        elif not inside:
            self.in_cell = name in CELLS
            table = self._table() if self.in_cell else None
            if not self.in_cell or table is not None:
                self.flat = 1
            if table is not None:
                table.open_cell(i, name, self._begin)

    def _close_flat(self, i: int, name: str) -> None:
        if self.flat != 1:
            self._edge(i, name)
            self.flat = max(0, self.flat - 1)
            return
        self.flat = 0
        if self.in_cell:
            self.in_cell = False
            cell = self.line.take(cell=True)
            self._parts(cell)
            if (table := self._table()) is not None:
                table.close_cell(i, "".join(part.text for part in cell))
            return
        is_heading = name != "title" or not self.blocks
        parts = self.line.take(block=not is_heading, heading=is_heading)
        if parts:
            self._begin(parts[0].piece)
            if is_heading:
                self.out.add("#" * (1 if name == "title" else int(name[1])) + " ", parts[0].piece)
            self._parts(parts)
            self._done("h" if is_heading else "p")

    # -- tables ---------------------------------------------------------------------------------------

    def _table(self) -> Table | None:
        return self.tables[-1] if self.tables else None

    def _end_table(self, table: Table | None, i: int) -> None:
        if table is not None and table.end(i):
            self._done("table")

    def _open_table(self, i: int, name: str) -> None:
        if not self._edge(i, name):
            self._end_table(self._table(), i)
            is_layout = i in self.layout
            self.tables.append(None if is_layout else Table(i, self.pieces, self.tag, self.out))

    def _close_table(self, i: int, name: str) -> None:
        if not self._edge(i, name) and self.tables:
            self._end_table(self.tables.pop(), i)

    def _open_head(self, i: int, name: str) -> None:
        self._head(i, name, inside=True)

    def _close_head(self, i: int, name: str) -> None:
        self._head(i, name, inside=False)

    def _head(self, i: int, name: str, *, inside: bool) -> None:
        if not self._edge(i, name) and (table := self._table()) is not None:
            if inside:  # a footer may stand before it
                self._end_table(table, i)
            table.in_head = inside

    def _open_row(self, i: int, name: str) -> None:
        if not self._edge(i, name) and (table := self._table()) is not None:
            table.open_row(i)

    def _close_row(self, i: int, name: str) -> None:
        if not self._edge(i, name) and (table := self._table()) is not None:
            table.close_row(i)

    # -- inline ---------------------------------------------------------------------------------------

    def _inline(self, i: int, name: str) -> None:
        if self.pre and not self.flat:
            if name == "br":
                self.line.verbatim(i, "\n")
            return
        piece, line = self.pieces.text[i], self.line
        closing = piece[1] == "/"
        if name in ("code", "kbd", "samp"):
            (line.close_code if closing else line.open_code)(i)
        elif name == "a":
            if closing:
                line.close_link(i)
            else:
                line.open_link(i, piece)
        elif name == "br":
            if self.flat:
                self._edge(i, name)
            else:
                line.hard_break(i)
        elif name == "img":
            line.image(i, piece)
        elif name == "q":
            line.quote(i)
        elif name in MATH:
            line.formula(i, name, closing=closing)
        elif closing:
            line.close_mark(i, name)
        else:
            line.open_mark(i)


_Handler = Callable[[_Writer, int, str], None]
_OPEN: dict[str, _Handler] = dict.fromkeys(BLOCKS, _Writer._block)
_CLOSE: dict[str, _Handler] = dict(_OPEN)
for _names, _open, _close in (
    (HEADINGS | CELLS | {"title"}, _Writer._open_flat, _Writer._close_flat),
    (PRE, _Writer._open_pre, _Writer._close_pre),
    (LIST_TAGS, _Writer._open_list, _Writer._close_list),
    (_ITEMS, _Writer._open_item, _Writer._pop),
    (("blockquote",), _Writer._open_quote, _Writer._pop),
    (("dt",), _Writer._open_term, _Writer._close_term),
    (("table",), _Writer._open_table, _Writer._close_table),
    (("thead",), _Writer._open_head, _Writer._close_head),
    (("tr",), _Writer._open_row, _Writer._close_row),
    (("code", "kbd", "samp", "a", "q", "sub", "sup", "del"), _Writer._inline, _Writer._inline),
    (MATH, _Writer._inline, _Writer._inline),
    (("br", "img"), _Writer._inline, _Writer._inline),
):
    for _name in _names:
        _OPEN[_name], _CLOSE[_name] = _open, _close
