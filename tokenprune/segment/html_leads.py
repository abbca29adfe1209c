"""What leads what in a page: headings their sections, header rows their tables, terms their meanings.

Rows of a ``thead`` are the header of their table; without one it is the first row. A row above that which is
one cell is a title, and further down a row that is one ``th`` leads the rows up to the next such row.
A row without a cell of its own in some column is led by the row above whose cell reaches into it. The terms
that stand right before a meaning lead it, be they in a ``div`` with it or not.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from tokenprune.arrays import BoolArray
from tokenprune.segment.html_page import CleanPage
from tokenprune.segment.html_tags import CELLS, LISTS, SECTIONS

_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_TITLE = 0
# Ranks of units that lead others: one with a smaller rank reaches further. Headings rank by level; behind
# them, by depth, what leads inside a list or table: what introduces it, and then its parts.
_FIRST, _STEP = 10, 5
_INTRO, _CAPTION, _TITLE_ROW, _HEAD, _GROUP = range(_STEP)
_TERM = _CAPTION
_HEAD_ROWS = 3  # at most; in some tables every cell is a th
_PARTS = frozenset(("tr", "thead", "caption"))


@dataclass
class _Scope:
    """An open table or list of terms."""

    node: int
    depth: int
    part: str = ""  # the thead, tbody or tfoot that is split
    rows: int = 0  # met outside thead and tfoot
    heads: int = 0  # rows that are the header
    ended: bool = False  # whether a row has come that is none


class Leads:
    """Units that lead, in the order of the page.

    Args:
        page: of the units.

    Attributes:
        lead: the unit that leads each unit, -1 for none.
        level: of each unit that is a heading, 1 for the title, 2 for h1 and so on; 0 for others.
        along: whether what leads a unit comes along wherever that leads another.
    """

    def __init__(self, page: CleanPage) -> None:
        self.page = page
        self.lead: list[int] = []
        self.level: list[int] = []
        self.along: list[bool] = []
        self._terms: list[int] = []
        self._rows: dict[int, int] = {}  # rows of data that others may be read with -> units
        self._depth = 0
        self._open: list[tuple[int, int]] = []  # (rank, unit), ranks ascending
        self._scopes: list[_Scope] = []

    @cached_property
    def _headed(self) -> set[int]:
        """Tables that have a thead."""
        page = self.page
        if "thead" not in page.tag:
            return set()
        return {page.parent[n] for n, tag in enumerate(page.tag) if tag == "thead" and page.alive[n]}

    @cached_property
    def _cells(self) -> tuple[list[int], list[int]]:
        """How many cells, and how many th among them, stand right in each element; the last is the page."""
        tag, parent = self.page.tag, np.asarray(self.page.parent, dtype=np.int64)

        def counted(names: Iterable[str]) -> list[int]:
            chosen = np.fromiter(map(frozenset(names).__contains__, tag), dtype=bool, count=len(tag))
            found: list[int] = np.bincount(parent[chosen] + 1, minlength=len(tag) + 1)[1:].tolist()
            return [*found, 0]

        return counted(CELLS), counted(("th",))

    # -- elements that are split ----------------------------------------------------------------------

    def enter(self, node: int) -> None:
        """Go into an element."""
        self._end_term(node)
        self._depth += 1
        tag = self.page.tag[node]
        if tag in ("table", "dl"):
            self._scopes.append(_Scope(node, self._depth))
        elif tag in SECTIONS and (table := self._scope("table")) is not None:
            table.part = tag
        elif tag == "tr" and (table := self._scope("table")) is not None and table.part in ("", "tbody"):
            table.rows, table.ended = table.rows + 1, True

    def leave(self, node: int) -> None:
        """Come out of it."""
        tag = self.page.tag[node]
        if tag in LISTS or tag == "table":
            self._end(_rank(self._depth, _INTRO))
        elif tag in SECTIONS and (table := self._scope("table")) is not None:
            table.part = ""
            self._end(_rank(table.depth, _GROUP))
        if self._scopes and self._scopes[-1].node == node:
            self._scopes.pop()
        self._depth -= 1

    def holds_header(self, node: int) -> bool:
        """Whether an element is part of a table and its first row may be the header."""
        table = self._scope("table")
        return (
            table is not None
            and self.page.tag[node] == "tbody"
            and not table.rows
            and table.node not in self._headed
        )

    # -- units ----------------------------------------------------------------------------------------

    def introduce(self) -> None:
        """Let the last unit lead the list that begins."""
        self._open.append((_rank(self._depth, _INTRO), len(self.lead) - 1))

    def add(self, tag: str, node: int, *, words: bool) -> None:
        """Add a unit; settle what leads it and whether it leads others.

        Args:
            tag: of the element that it is, "" for none.
            node: that element, -1 for none.
            words: whether it has any.
        """
        unit = len(self.lead)
        self._end_term(node)
        rank, kind, further = _HEADINGS.get(tag), None, False
        if tag == "title":
            rank = None if unit else _TITLE
        elif tag == "dt" and (terms := self._scope("dl")) is not None:
            rank = _rank(terms.depth, _TERM)
            self._terms.append(unit)
        elif tag in _PARTS and (table := self._scope("table")) is not None:
            kind = self._part(table, tag, node, words=words)
            rank = None if kind is None else _rank(table.depth, kind)
            further = kind == _HEAD and table.heads > 1
        if rank is not None:
            self._end(rank + further)
        self.lead.append(self._open[-1][1] if self._open else -1)
        self.level.append(rank + 1 if rank is not None and rank < _FIRST else 0)
        self.along.append(further or kind == _GROUP)
        if tag in LISTS and self._open and self._open[-1][0] == _rank(self._depth, _INTRO):
            self._open.pop()
        if rank is not None:
            self._open.append((rank, unit))
        elif node in self.page.above:
            self._rows[node] = unit
            above = self._rows.get(self.page.above[node])
            if above is not None:
                self.lead[unit], self.along[above] = above, True

    def terms(self) -> BoolArray:
        """Which units are terms that lead what they mean, bool [n]."""
        found = np.zeros(len(self.lead), dtype=bool)
        found[np.intersect1d(self._terms, self.lead).astype(np.int64)] = True
        return found

    def _end(self, rank: int) -> None:
        """Let what leads no further than this lead nothing more."""
        while self._open and self._open[-1][0] >= rank:
            self._open.pop()

    def _end_term(self, node: int) -> None:
        """Let a term lead nothing more when another part of its list begins, but for a meaning."""
        if node >= 0 and self._scopes and (terms := self._scope("dl")) is not None:
            tag = self.page.tag[node]
            if tag == "dt" or (tag != "dd" and self.page.parent[node] == terms.node):
                self._end(_rank(terms.depth, _TERM))

    def _scope(self, tag: str) -> _Scope | None:
        """The innermost open table or list of terms, if it is one of these."""
        scope = self._scopes[-1] if self._scopes else None
        return scope if scope is not None and self.page.tag[scope.node] == tag else None

    def _part(self, table: _Scope, tag: str, node: int, *, words: bool) -> int | None:
        """As what a part of a table leads; None: it does not."""
        if tag == "tr" and table.part not in ("thead", "tfoot"):
            return self._row(table, node, words=words)
        if not words or table.part == "tfoot":
            return None
        if tag == "caption":
            return _CAPTION
        table.heads += 1
        return _HEAD

    def _row(self, table: _Scope, node: int, *, words: bool) -> int | None:
        """The same of a row outside thead and tfoot."""
        first, headed = not table.rows, table.node in self._headed
        table.rows += 1
        if not words:
            return None
        cells, heads = (count[node] for count in self._cells)
        if cells == 1 and first and not headed:
            return _TITLE_ROW
        if not headed and not table.ended and (first or (1 < cells == heads and table.heads < _HEAD_ROWS)):
            table.heads += 1
            return _HEAD
        table.ended = True
        return _GROUP if cells == heads == 1 else None


def _rank(depth: int, kind: int) -> int:
    return _FIRST + _STEP * depth + kind
