"""What cleaning takes away and scorers of whole pages need: links, attributes and where elements lie.

Recorded in the same single pass as the cleaned page, and only when asked for.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection

import numpy as np

from tokenprune.arrays import BoolArray, IntArray
from tokenprune.markup import Markup
from tokenprune.segment.html_clean import NOT_WRITTEN, Cleaner, read
from tokenprune.segment.html_page import BREAK, CLOSE, OPEN, TEXT, CleanPage
from tokenprune.segment.html_reach import Reach
from tokenprune.segment.html_source import Source
from tokenprune.segment.html_tags import is_inline


class MarkedCleaner(Cleaner):
    """Cleans a page and records its markup on the way."""

    _records = True

    def __init__(
        self, page: Source, reach: Reach, keep_attributes: Collection[str], drop_hidden: bool
    ) -> None:
        super().__init__(page, reach, keep_attributes, drop_hidden)
        self.attributes: list[str] = []
        self.inline_tag: list[str] = []
        self.inline_parent: list[int] = []
        self.inline_attributes: list[str] = []
        self.inline_of: dict[int, int] = {}  # event -> innermost inline element
        self._within = -1  # innermost open inline element

    def _start(self, tag: str, mark: int) -> None:
        """Clean a start tag, then record it if its element can hold text."""
        elements, depth = len(self.page.tag), len(self._stack)
        super()._start(tag, mark)
        source = self.source.attributes(mark) if mark >= 0 else ""
        if len(self.page.tag) > elements:
            self.attributes.append(source)
        elif len(self._stack) > depth and self._stack[-1] == NOT_WRITTEN:
            self.inline_tag.append(tag)
            self.inline_parent.append(self._within)
            self.inline_attributes.append(source)
            self._within = len(self.inline_tag) - 1

    def _end(self, tag: str) -> None:
        """Clean an end tag."""
        depth = len(self._stack)
        inline = depth > 0 and self._stack[-1] == NOT_WRITTEN
        super()._end(tag)
        if inline and len(self._stack) < depth and self._within >= 0:
            self._within = self.inline_parent[self._within]

    def _forget(self, gone: set[int]) -> None:
        super()._forget(gone)
        lost = sorted(gone)
        self.inline_of = {i - bisect_left(lost, i): inline for i, inline in self.inline_of.items()}

    def _write(self, text: str) -> None:
        super()._write(text)
        if self._within >= 0:
            self.inline_of[len(self.page.kind) - 1] = self._within


def clean_marked(
    source: str, keep_attributes: Collection[str] = (), *, drop_hidden: bool = True
) -> MarkedCleaner:
    """Clean a page and return the cleaner, with its ``page`` and what it recorded."""
    return read(source, keep_attributes, drop_hidden, MarkedCleaner)


def markup(cleaner: MarkedCleaner, event: IntArray, owner: IntArray, text: list[str]) -> Markup:
    """Lay what was recorded out by unit.

    Args:
        cleaner: what cleaned the page.
        event: int64 [p], the event of the cleaned page that each piece is (part of).
        owner: int64 [p], unit of each piece; negative for wrappers.
        text: the pieces.
    """
    page = cleaner.page
    line_of, block = _lines(page)
    kinds = np.asarray(page.kind, dtype=np.int64)
    words = owner >= 0
    words[words] = kinds[event[words]] == TEXT
    blank = np.fromiter(map(str.isspace, text), dtype=bool, count=len(text))
    at = np.flatnonzero(words & ~blank)
    spaced = np.diff(np.cumsum(blank)[at], prepend=0) > 0  # white space stands before it
    events = event[at]
    lines = line_of[events]
    fresh = np.diff(lines, prepend=-1) > 0
    inline = [cleaner.inline_of.get(e, -1) for e in events.tolist()]
    return Markup(
        tag=page.tag,
        parent=page.parent,
        attributes=cleaner.attributes,
        inline_tag=cleaner.inline_tag,
        inline_parent=cleaner.inline_parent,
        inline_attributes=cleaner.inline_attributes,
        span_unit=owner[at],
        span_line=np.cumsum(fresh) - 1,
        span_node=block[events],
        span_inline=np.asarray(inline, dtype=np.int64),
        span_text=[
            f" {text[p]}" if s else text[p] for p, s in zip(at.tolist(), spaced.tolist(), strict=True)
        ],
    )


def _lines(page: CleanPage) -> tuple[IntArray, IntArray]:
    """Number the lines; return line and block element of each event, int64 [e]."""
    inline: BoolArray = np.fromiter(map(is_inline, page.tag), dtype=bool, count=len(page.tag))
    node = np.asarray(page.node, dtype=np.int64)
    kind = np.asarray(page.kind, dtype=np.int64)
    edge = kind == BREAK
    tags = (kind == OPEN) | (kind == CLOSE)
    edge[tags] = ~inline[node[tags]]
    block = np.arange(len(page.tag), dtype=np.int64)
    parent = page.parent
    for e in np.flatnonzero(inline).tolist():  # parents come first, so theirs are settled
        block[e] = block[parent[e]] if parent[e] >= 0 else -1
    around = np.where(node >= 0, block[node], -1) if len(block) else node
    return np.cumsum(edge), around


def scoped(lead: IntArray, found: Markup) -> IntArray:
    """Let headings lead only what lies in the same part of the page, and the title nothing.

    A scorer of whole pages judges headings itself; one in the navigation must not come along with the text.

    Args:
        lead: int64 [n], the unit that leads each unit, -1 for none.
        found: markup of the page.

    Returns:
        int64 [n]; a lead that reaches out of its part gives way to the one above it, in the end to -1.
    """
    parent = [0, *(p + 1 for p in found.parent)]  # elements are shifted by one: 0 is the page
    last = list(range(len(parent)))  # the last element in each: they are numbered as they open
    for e in range(len(parent) - 1, 0, -1):
        last[parent[e]] = max(last[parent[e]], last[e])
    node = np.zeros(len(lead), dtype=np.int64)
    node[found.span_unit[::-1]] = found.span_node[::-1] + 1  # of the first span of each unit
    out = lead.copy()
    for unit in np.flatnonzero(lead >= 0).tolist():
        up = int(lead[unit])
        while up >= 0:
            head = int(node[up])
            scope = parent[head]
            title = head > 0 and found.tag[head - 1] == "title"
            if not title and scope <= node[unit] <= last[scope]:
                break
            up = int(lead[up])
        out[unit] = up
    return out
