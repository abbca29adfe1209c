"""Which places of a text lie inside a word: half of a number or of a name is worse than none."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import regex

from tokenprune.arrays import BoolArray, IntArray

# Letters of scripts that put no space between words (Thai to Khmer, Chinese and Japanese) are cut anywhere.
_NO_SPACES = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
# Vowel signs and joiners belong to the letters about them.
_LETTER = rf"[[\w\p{{M}}\u200c\u200d]--[{_NO_SPACES}]]"
_WORD = regex.compile(rf"{_LETTER}+(?:[.,:/'’-]{_LETTER}+)*", regex.VERSION1)
_LONGEST = 64  # characters; what is longer is no word (encoded data, a line of a table)
# Clusters of several characters have one beyond ASCII, but for line breaks.
_BEYOND_ASCII = regex.compile(r".?[^\x00-\x7f]+", regex.DOTALL)
_CLUSTER = regex.compile(r"\X")  # Unicode's UAX 29


def inside_words(text: str, places: IntArray) -> BoolArray:
    """Return whether each place, an offset in characters int64 [n], lies behind the first letter of a word.

    A word is what people write without a space: ``0.19``, ``10:30``, ``don't``, ``os.path`` are one each. In
    any script a place inside a character as readers see it (letter and accent, flag, family) is inside, too.
    """
    words = (match.span() for match in _WORD.finditer(text))
    inside = _between([(a, b) for a, b in words if b - a <= _LONGEST], places)
    return inside if text.isascii() else inside | _between(list(_clusters(text)), places)


def _clusters(text: str) -> Iterator[tuple[int, int]]:
    """Yield the grapheme clusters of more than one character."""
    for run in _BEYOND_ASCII.finditer(text):
        for match in _CLUSTER.finditer(text, *run.span()):
            if match.end() - match.start() > 1:
                yield match.span()


def _between(found: list[tuple[int, int]], places: IntArray) -> BoolArray:
    """Return whether each place lies within one of the spans, not at its edges; they ascend."""
    if not found:
        return np.zeros(len(places), dtype=bool)
    spans = np.asarray(found, dtype=np.int64)
    at = np.searchsorted(spans[:, 0], places, side="right") - 1
    owner = np.maximum(at, 0)
    return np.asarray((at >= 0) & (places > spans[owner, 0]) & (places < spans[owner, 1]))
