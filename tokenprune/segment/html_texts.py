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
