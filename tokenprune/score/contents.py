"""Which units of a page only point to other places: the entries of its table of contents."""

from __future__ import annotations

import re

import numpy as np

from tokenprune.arrays import BoolArray, IntArray
from tokenprune.units import Units

# Letters in both cases: without the flag for that, the search for "<" is ten times as fast.
_TO_A_PLACE = re.compile(
    r"<[aA]\s(?=[^<>#]*+#)(?:[^<>]*?[\s\"'])?[hH][rR][eE][fF]\s*=\s*[\"']?[^\"'\s<>]*#[^\"'\s<>][^<>]*>"
)
_EDGE = re.compile(r"</?[aA][\s>]")
_WORD = re.compile(r"\w")


def only_point(units: Units) -> BoolArray:
    """Whether all words of a unit stand in links to places within pages (``href="#a"``), bool [n].

    Such a unit says what the place is called, and resembles a question about it more than the place does.
    """
    points = np.zeros(len(units), dtype=bool)
    pieces = units.pieces
    if pieces.tag is None or "#" not in pieces.source:
        return points
    begins, ends = _links(pieces.source)
    if not len(begins):
        return points
    at = np.flatnonzero(~pieces.tag & (pieces.owner >= 0))
    link = np.searchsorted(begins, pieces.src_start[at], side="right") - 1
    linked = (link >= 0) & (pieces.src_start[at] < ends[link])
    owner = pieces.owner[at]
    points[owner[linked]] = True
    # Only where a unit has a link it matters whether other words stand beside it.
    beside = at[~linked & points[owner]]
    says = [_WORD.search(pieces.text[p]) is not None for p in beside.tolist()]
    points[pieces.owner[beside[np.asarray(says, dtype=bool)]]] = False
    return points


def _links(source: str) -> tuple[IntArray, IntArray]:
    """Where the contents of such links begin and end, int64 [l] each; a link ends where the next begins."""
    begins = np.asarray([m.end() for m in _TO_A_PLACE.finditer(source)], dtype=np.int64)
    if not len(begins):
        return begins, begins
    edges = np.asarray([m.start() for m in _EDGE.finditer(source)] + [len(source)], dtype=np.int64)
    return begins, edges[np.searchsorted(edges, begins)]
