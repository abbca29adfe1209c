"""The coarse blocks of HtmlRAG's first step (arXiv 2411.02959, section 3.3), as groups of finer units."""

from __future__ import annotations

import numpy as np

from tokenprune.arrays import IntArray
from tokenprune.segment.word_counts import word_count
from tokenprune.units import Units


def coarse_blocks(units: Units, max_words: int) -> IntArray:
    """Number the largest element of at most ``max_words`` words around each unit, int64 [n]."""
    wrappers = len(units.wrapper_parent)
    words = np.zeros(wrappers, dtype=np.int64)
    own = np.asarray([word_count(text) for text in units.texts], dtype=np.int64)
    inside = units.wrapper >= 0
    np.add.at(words, units.wrapper[inside], own[inside])
    for w in range(wrappers - 1, -1, -1):  # parents come first, so children are settled before them
        if units.wrapper_parent[w] >= 0:
            words[units.wrapper_parent[w]] += words[w]
    top = np.full(wrappers, -1, dtype=np.int64)
    for w in range(wrappers):
        up = int(units.wrapper_parent[w])
        if words[w] <= max_words:
            top[w] = top[up] if up >= 0 and top[up] >= 0 else w
    of = np.where(inside, top[units.wrapper] if wrappers else -1, -1)
    return np.where(of >= 0, of, wrappers + np.arange(len(units))).astype(np.int64)
