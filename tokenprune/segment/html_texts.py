"""The texts of a page as they are written: white space folded, signs that would read as markup escaped."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from tokenprune.arrays import BoolArray, IntArray
from tokenprune.points import (
    NUL,
    bounds,
    code_points,
    from_points,
    is_white,
)
from tokenprune.segment.html_page import escape_text


@dataclass(frozen=True)
class Texts:
    """Texts in order; behind the last one stands an empty one, so that -1 is the place of no text.

    Attributes:
        joined: as they are in the page, entities read, with a NUL behind each.
        written: as they are written inside a line, without white space at the ends.
        some: bool [n + 1], whether there is anything, white space included.
        words: whether there is more than white space.
        before: whether white space stands before it.
        behind: whether white space stands behind it.
        sign: whether it ends in one that is escaped there.
        first: its first character that is not white, int64 [n + 1]; of a text without words, any.
        last: its last one.
    """

    joined: str
    written: list[str]
    some: BoolArray
    words: BoolArray
    before: BoolArray
    behind: BoolArray
    sign: BoolArray
    first: IntArray
    last: IntArray

    @cached_property
    def plain(self) -> list[str]:
        """The texts as they are in the page."""
        return self.joined.split(NUL)


def read_texts(joined: str) -> Texts:
    """Fold texts that are joined by NUL: white space becomes single spaces."""
    joined += NUL
    points = code_points(joined)
    white = is_white(points)
    white &= points != 0
    keep = ~white
    keep[1:] |= white[1:] & ~white[:-1]
    keep[:1] = True
    points = np.where(white, np.array(ord(" "), dtype=points.dtype), points)[keep]
    white = white[keep]
    starts, ends = bounds(points)
    some = ends > starts
    padded = np.append(white, False)
    before = some & padded[starts]
    behind = some & padded[ends - 1]
    words = ends - starts > (before | behind)
    padded = np.append(points, 0).astype(np.int64)
    first, last = padded[starts + before], padded[ends - 1 - behind]
    sign = words & ((last == ord("&")) | (last == ord("<")))
    inner = np.ones(len(points), dtype=bool)
    inner[starts[before]] = inner[ends[behind] - 1] = False
    written = escape_text(from_points(points[inner])).split(NUL)
    return Texts(joined, written, some, words, before, behind, sign, first, last)
