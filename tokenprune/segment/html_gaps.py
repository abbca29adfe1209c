"""Where words stand apart although no white space parts them.

Programs write pages without white space between elements: style sheets set a label beside its value and one
link beside the next. Inline tags go when a page is cleaned, and with nothing in their place the words would
run together. Two things part words; a line break takes the place of the tags there, which adds no text:

- The edge of a box: browsers give buttons, fields, pictures and the like a place of their own.
- The seam of two elements side by side in one that holds no text of its own, where what they hold reads as
  two words (see `word_seams`), or they are links to two places, or the page says that it lays them out in a
  row. "<b>B</b>old" stands in text, and "wo" and "rd" may be one word: such pieces stay together.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cached_property

import numpy as np

from tokenprune.arrays import BoolArray, IntArray
from tokenprune.segment.html_names import PerName
from tokenprune.segment.html_rows import BREAKS, ENDS, PARTS, SHOWS, STARTS, Rows
from tokenprune.segment.html_source import CLOSES, NO_TAG, OPENS
from tokenprune.segment.html_tags import APART, attributes
from tokenprune.segment.html_texts import Texts
from tokenprune.segment.html_tree import Tree, tree
from tokenprune.segment.word_seams import are_letters, may_be_parted, reads_apart

_BOXES = frozenset("button embed img input keygen label meter mtd progress svg text".split())
_MEDIA = frozenset("audio canvas object video".split())  # boxes also where what stands in them is not shown
_SIDE_BY_SIDE = frozenset(
    "a abbr b bdi cite data dfn em font i output small span strong time tspan u".split()
)
_NO_CUSTOM = frozenset("annotation-xml color-profile font-face missing-glyph".split())  # of SVG and MathML
_IN_A_ROW = re.compile(
    r"(?<![\w-])(?:d-)?(?:inline-)?(?:flex|grid)(?![\w-])|(?<![\w-])(?:gap|space)-x?-?[1-9]"
)
_SET_APART = re.compile(
    r"(?<![\w-])(?:btn|badge|chip|pill|(?:d-)?(?:inline-)?block|[mp][lrsex]-[1-9]\d?)(?![\w-])"
)
_LOGO = re.compile(r"logo|brand", re.I)
_BOX, _EDGE, _SHOWN_BOX = 1, 2, 3


def _class(name: str) -> int:
    if name in APART:
        return _EDGE
    return _SHOWN_BOX if name in _MEDIA else _BOX if name in _BOXES or is_custom(name) else 0


def is_custom(name: str) -> bool:
    """Whether an element is one that the page has made itself."""
    return "-" in name and name not in _NO_CUSTOM


_CLASS_OF = PerName(_class, np.int8)


class Gaps:
    """Finds the tags in whose place words are parted.

    Args:
        rows: what tags do.
        names: of tags, by place.
        texts: that stand behind them, by event.
        shown: bool [n], rows whose texts are in the output.
        white: bool [n], rows behind which there is only white space.
        verbatim: bool [n], rows whose texts stand as they are.
        attributes: of a tag as they are written, by mark.
    """

    def __init__(
        self,
        rows: Rows,
        names: list[str],
        texts: Texts,
        shown: BoolArray,
        white: BoolArray,
        verbatim: BoolArray,
        attributes: Callable[[int], str],
    ) -> None:
        self.rows, self.names, self.texts = rows, names, texts
        self._shown, self._white, self._verbatim, self._attributes = shown, white, verbatim, attributes
        self._class = _CLASS_OF.of(names)[rows.place]
        self._class[(rows.kind == NO_TAG) & (self._class != _SHOWN_BOX)] = 0
        self._depth = np.cumsum((rows.kind == OPENS) * 1 - (rows.kind == CLOSES))

    def find(self) -> IntArray:
        """Return the rows, ascending."""
        at = np.flatnonzero(self._shown)
        if len(at) < 2:
            return at[:0]
        first, last = at[:-1], at[1:]
        boxes = np.flatnonzero((self._class == _BOX) | (self._class == _SHOWN_BOX))
        start, stop = (np.searchsorted(boxes, rows, side="right") for rows in (first, last))
        depth = self._depth
        low = np.minimum(np.minimum.reduceat(depth, at)[:-1], depth[last])
        seam = (low < depth[first]) & (low < depth[last])
        found: list[int] = []
        chosen = np.flatnonzero(self._abut(first, last) & ((start < stop) | seam))
        event = self.rows.event
        ends, begins = self.texts.last[event[first[chosen]]], self.texts.first[event[last[chosen]]]
        for k in chosen[may_be_parted(ends, begins)].tolist():
            a, b = int(first[k]), int(last[k])
            row = self._box(boxes[start[k] : stop[k]].tolist(), a, b, beside=bool(seam[k]))
            if row < 0 and seam[k]:
                row = self._seam(a, b, int(low[k]))
            if row >= 0:
                found.append(row)
        return np.asarray(found, dtype=np.int64)

    def _abut(self, first: IntArray, last: IntArray) -> BoolArray:
        """Whether nothing parts two texts that are shown one behind the other."""
        rows, texts = self.rows, self.texts
        act = rows.act
        edge = (act == PARTS) | (act == BREAKS) | (act == SHOWS) | self._white
        edge |= ((act == STARTS) | (act == ENDS)) & (self._class == _EDGE)
        so_far = np.cumsum(edge)
        found: BoolArray = so_far[first] == so_far[last]
        left, right = rows.event[first], rows.event[last]
        found &= ~texts.behind[left] & ~texts.before[right]
        found &= ~(self._verbatim[first] & self._verbatim[last])
        return found

    def _said(self, row: int) -> str:
        return self.texts.written[int(self.rows.event[row])]

    def _name(self, row: int) -> str:
        return self.names[int(self.rows.place[row])]

    def _box(self, boxes: list[int], a: int, b: int, *, beside: bool) -> int:
        """The first edge of a box that parts two texts, -1 for none.

        Args:
            boxes: edges between them.
            a: row of the one.
            b: row of the other.
            beside: whether each stands in an element of its own.
        """
        left, right = self._said(a), self._said(b)
        for row in boxes:
            name = self._name(row)
            if is_custom(name):  # most are boxes, some only mark a part of a word
                if are_letters(left, right) or not (beside or reads_apart(left, right)):
                    continue
            elif name == "input" and attributes(self._written(row)).get("type", "").lower() == "hidden":
                continue
            return row
        return -1

    def _seam(self, a: int, b: int, low: int) -> int:
        """The start tag at which two texts part that stand in elements side by side, -1 for none."""
        left, right = self._said(a), self._said(b)
        lowest = np.flatnonzero(self._depth[a : b + 1] == low)
        end, start = a + int(lowest[0]), a + int(lowest[-1]) + 1
        names = self._name(end), self._name(start)
        links = names == ("a", "a")
        letters = are_letters(left, right) and not (links and left.isascii())  # "A", "B" may be an index
        if letters or not _SIDE_BY_SIDE.issuperset(names):
            return -1
        around = int(self._tree.inside[end])
        if self._has_text[around]:
            return -1
        opens = self._tree.opens
        parent = self._written(int(opens[around])) if around >= 0 else ""
        one, other = self._written(int(opens[self._tree.inside[end - 1]])), self._written(start)
        if links:
            to = attributes(one).get("href")
            apart = not to or to != attributes(other).get("href")
        else:
            apart = bool(_IN_A_ROW.search(parent) or _SET_APART.search(one) or _SET_APART.search(other))
        if apart or (reads_apart(left, right) and not _LOGO.search(parent + one)):
            return start
        return -1

    def _written(self, row: int) -> str:
        """The attributes of a tag as they are written."""
        mark = int(self.rows.mark[row])
        return self._attributes(mark) if mark >= 0 else ""

    @cached_property
    def _tree(self) -> Tree:
        return tree((self.rows.kind == OPENS) * 1 - (self.rows.kind == CLOSES))

    @cached_property
    def _has_text(self) -> BoolArray:
        """Whether elements, and the page, hold text of their own."""
        found = np.zeros(len(self._tree.opens) + 1, dtype=bool)
        found[self._tree.inside[self._shown]] = True
        return found
