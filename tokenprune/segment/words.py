"""Which places of a text lie inside a word: half of a number or of a name is worse than none."""

from __future__ import annotations

import re

import numpy as np

from tokenprune.arrays import BoolArray, IntArray

# Letters of scripts that put no space between words (Thai to Khmer, Chinese and Japanese) are cut anywhere.
_LETTER = r"[^\W\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
_WORD = re.compile(rf"{_LETTER}+(?:[.,:/'’-]{_LETTER}+)*")
_LONGEST = 64  # characters; what is longer is no word (encoded data, a line of a table)


def inside_words(text: str, places: IntArray) -> BoolArray:
    """Return whether each place, an offset in characters int64 [n], lies behind the first letter of a word.

    A word is what people write without a space: ``0.19``, ``10:30``, ``don't``, ``os.path`` are one each.
    """
    found = [match.span() for match in _WORD.finditer(text)]
    spans = np.asarray([(a, b) for a, b in found if b - a <= _LONGEST], dtype=np.int64).reshape(-1, 2)
    if not len(spans):
        return np.zeros(len(places), dtype=bool)
    at = np.searchsorted(spans[:, 0], places, side="right") - 1
    owner = np.maximum(at, 0)
    return np.asarray((at >= 0) & (places > spans[owner, 0]) & (places < spans[owner, 1]))
