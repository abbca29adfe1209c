"""Texts as arrays of their characters, for questions about many texts at once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tokenprune.arrays import BoolArray, IntArray

NUL = "\0"  # is in no page: what is done to texts joined by it is done to each, at once
Points = NDArray[np.uint8] | NDArray[np.uint32]

# White space as HTML takes it.
_IS_WHITE = np.zeros(256, dtype=bool)
_IS_WHITE[[ord(c) for c in " \t\n\r\f"]] = True
# White space as `str.split` takes it, and then any other character.
IS_SPACE = np.zeros(0x3002, dtype=bool)
IS_SPACE[[*range(9, 14), *range(28, 33), 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B)]] = True
IS_SPACE[[0x2028, 0x2029, 0x202F, 0x205F, 0x3000]] = True


def code_points(text: str) -> Points:
    """The characters of a text as numbers, uint8 or uint32 [length]; not to be written to."""
    if text.isascii():
        return np.frombuffer(text.encode(), dtype=np.uint8)
    return np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)


def from_points(points: Points) -> str:
    """The text of such numbers."""
    return points.tobytes().decode("ascii" if points.itemsize == 1 else "utf-32-le")


def is_white(points: Points) -> BoolArray:
    """Which characters HTML takes for white space or that stand between texts, bool [length]."""
    found = _IS_WHITE[points if points.itemsize == 1 else np.minimum(points, 255)]
    result: BoolArray = found | (points == 0)
    return result


def is_space(points: Points) -> BoolArray:
    """Which characters stand between words, bool [length]."""
    found = IS_SPACE[points if points.itemsize == 1 else np.minimum(points, len(IS_SPACE) - 1)]
    result: BoolArray = found | (points == 0)
    return result


def listed(column: IntArray) -> list[int]:
    """A column as a list."""
    found: list[int] = column.tolist()
    return found


def bounds(points: Points) -> tuple[IntArray, IntArray]:
    """Where texts joined by NUL start and end, int64 [texts] each."""
    ends = np.append(np.flatnonzero(points == 0), len(points))
    return np.append(0, ends[:-1] + 1), ends


def how_many(mask: BoolArray, starts: IntArray, ends: IntArray) -> IntArray:
    """How often a mask is set in each range."""
    so_far = np.zeros(len(mask) + 1, dtype=np.int64)
    np.cumsum(mask, out=so_far[1:])
    found: IntArray = so_far[ends] - so_far[starts]
    return found
