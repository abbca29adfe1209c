"""What lies inside what, found for all tags of a page at once."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tokenprune.arrays import BoolArray, IntArray


class Tree(NamedTuple):
    """Elements, numbered as they open, and where they lie among n places.

    Attributes:
        opens: int64 [m], where each element opens, ascending.
        close: int64 [m], where it ends.
        inside: int64 [n], the innermost element open behind each place, -1 for none.
        parent: int64 [m], the element around each one, -1 for none.
    """

    opens: IntArray
    close: IntArray
    inside: IntArray
    parent: IntArray


def tree(steps: IntArray) -> Tree:
    """Put elements into each other.

    Args:
        steps: int64 [n], 1 where an element opens, -1 where the last one opened ends, else 0; every element
            ends.
    """
    n = len(steps)
    depth = np.cumsum(steps)
    at = np.flatnonzero(steps)
    level = depth[at] + (steps[at] < 0)  # of the element that opens or ends
    small = level.astype(np.int16) if len(level) and level.max() < 1 << 15 else level  # sorted much faster
    order = np.argsort(small, kind="stable")  # by level, and there an opening, its end, and so on
    opens, ends = at[order[::2]], at[order[1::2]]
    number = np.argsort(opens, kind="stable")
    rank = np.empty(len(opens), dtype=np.int64)
    rank[number] = np.arange(len(opens))
    # Inside is what opened last at the depth that there is.
    found = np.searchsorted(level[order[::2]] * n + opens, depth * n + np.arange(n), side="right") - 1
    inside = np.where(depth > 0, rank[found], -1) if len(opens) else np.full(n, -1, dtype=np.int64)
    opens = opens[number]
    parent = np.where(opens > 0, inside[opens - 1], -1)
    return Tree(opens, ends[number], inside, parent)


def moved_down(column: IntArray, first: int) -> IntArray:
    """Return a column moved down by one row: what stood in the row before each."""
    moved = np.empty_like(column)
    moved[:1] = first
    moved[1:] = column[:-1]
    return moved


def last_of(mask: BoolArray) -> IntArray:
    """Return the last place up to each one where a mask, bool [n], is set, int64 [n]; -1 for none."""
    return np.maximum.accumulate(np.where(mask, np.arange(len(mask)), -1))


def nearest(parent: IntArray, chosen: BoolArray) -> IntArray:
    """Return for each element the nearest chosen one, itself or around it, int64 [m + 1].

    Args:
        parent: int64 [m], -1 for none; the last of the result, -1 as well, is that of "none".
        chosen: bool [m].
    """
    found = np.append(np.where(chosen, np.arange(len(parent)), parent), -1)
    while not np.array_equal(further := found[found], found):
        found = further
    return found
