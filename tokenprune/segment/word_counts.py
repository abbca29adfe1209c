"""How many words a text has, also where a script writes no spaces between them."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from tokenprune.arrays import IntArray
from tokenprune.points import NUL, bounds, code_points, how_many, is_space

# Letters of Thai and Lao, Burmese, Khmer, Japanese, Chinese and Korean.
_SIGNS = (
    (0x0E00, 0x0EFF),
    (0x1000, 0x109F),
    (0x1780, 0x17FF),
    (0x3040, 0x30FF),
    (0x3400, 0x9FFF),
    (0xAC00, 0xD7AF),
)
UNSPACED = "".join(f"{chr(first)}-{chr(last)}" for first, last in _SIGNS)  # inside of a class
_SIGN = re.compile(f"[{UNSPACED}]")


def word_count(text: str) -> int:
    """Count words; of scripts without spaces, one per two characters; of a long blob, one per 25."""
    words = text.split()
    count = len(words)
    if len(text) > 10 * count or not text.isascii():
        count = max(count, len(_SIGN.findall(text)) // 2, len(text) // 25)
    return count


def word_counts(texts: Sequence[str]) -> IntArray:
    """`word_count` of each text, int64 [n]; none of them holds a NUL."""
    points = code_points(NUL.join(texts))
    starts, ends = bounds(points)
    space = is_space(points)
    first = ~space
    first[1:] &= space[:-1]
    counts = how_many(first, starts, ends)
    if points.itemsize > 1:
        signs = np.zeros(len(points), dtype=bool)
        for low, high in _SIGNS:
            signs |= (points >= low) & (points <= high)
        counts = np.maximum(counts, how_many(signs, starts, ends) // 2)
    found: IntArray = np.maximum(counts, (ends - starts) // 25)[: len(texts)]
    return found
