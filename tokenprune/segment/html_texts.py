"""The texts of a page as they are written: white space folded, signs that would read as markup escaped."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tokenprune.arrays import BoolArray, IntArray
from tokenprune.segment.html_page import escape_text, fold

_NUL = "\0"  # is in no page: what is done to texts joined by it is done to each, at once


@dataclass(frozen=True)
class Texts:
    """Texts in order; behind the last one stands an empty one, so that -1 is the place of no text.

    Attributes:
        plain: as they are in the page, entities read.
        written: as they are written inside a line, without white space at the ends.
        some: bool [n + 1], whether there is anything, white space included.
        words: whether there is more than white space.
        before: whether white space stands before it.
        behind: whether white space stands behind it.
        sign: whether it ends in one that is escaped there.
    """

    plain: list[str]
    written: list[str]
    some: BoolArray
    words: BoolArray
    before: BoolArray
    behind: BoolArray
    sign: BoolArray


def read_texts(plain: list[str]) -> Texts:
    """Fold texts."""
    joined = fold(_NUL.join(plain) + _NUL)
    points = code_points(joined)
    ends = np.append(np.flatnonzero(points == 0), len(points))
    starts = np.concatenate(([0], ends[:-1] + 1))
    padded = np.append(points, 0)
    some = ends > starts
    before = padded[starts] == ord(" ")  # of an empty text, the end
    behind = some & (padded[ends - 1] == ord(" "))
    stripped = f"{_NUL}{joined}{_NUL}".replace(f" {_NUL}", _NUL).replace(f"{_NUL} ", _NUL)
    written = escape_text(stripped).split(_NUL)[1:-1]
    words = ends - starts > (before | behind)
    last = padded[ends - 1 - behind]
    sign = words & ((last == ord("&")) | (last == ord("<")))
    return Texts(plain, written, some, words, before, behind, sign)


def code_points(text: str) -> IntArray:
    """The characters of a text as numbers, uint8 or uint32 [length]."""
    if text.isascii():
        return np.frombuffer(text.encode(), dtype=np.uint8)
    return np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)


# White space as `str.split` takes it, and then any other character.
_IS_SPACE = np.zeros(0x3002, dtype=bool)
_IS_SPACE[[*range(9, 14), *range(28, 33), 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B)]] = True
_IS_SPACE[[0x2028, 0x2029, 0x202F, 0x205F, 0x3000]] = True


def word_counts(texts: list[str]) -> IntArray:
    """`word_count` of each text, int64 [n]; none of them holds a NUL."""
    joined = _NUL.join(texts) + _NUL
    points = code_points(joined)
    ends = np.flatnonzero(points == 0)
    starts = np.concatenate(([0], ends[:-1] + 1))
    space = _IS_SPACE[points if points.itemsize == 1 else np.minimum(points, len(_IS_SPACE) - 1)]
    space[ends] = True
    first = ~space
    first[1:] &= space[:-1]
    counts = _between(first, starts, ends)
    if not joined.isascii():
        signs = (points >= 0x3040) & (points <= 0x30FF) | (points >= 0x3400) & (points <= 0x9FFF)
        signs |= (points >= 0xAC00) & (points <= 0xD7AF)
        counts = np.maximum(counts, _between(signs, starts, ends) // 2)
    return np.maximum(counts, (ends - starts) // 25)


def _between(mask: BoolArray, starts: IntArray, ends: IntArray) -> IntArray:
    """How often a mask is set in each range."""
    so_far = np.concatenate(([0], np.cumsum(mask)))
    found: IntArray = so_far[ends] - so_far[starts]
    return found
