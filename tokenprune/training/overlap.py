"""Near copies: texts that quote one another, where equal texts are already kept apart by the split.

Wikipedia articles are quoted by several sets in other cuts and editions, which no key of a document shows.
Runs of eight words are compared, without case and punctuation: shorter ones are idiom. A text of which more
than a tenth of the runs occur elsewhere is a near copy; single runs are names, formulas and set phrases.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np

from tokenprune.arrays import IntArray
from tokenprune.training.sets import Item, Passage

RUN = 8
MOST = 0.1
_WORD = re.compile(r"[^\W_]+")


class Runs:
    """All runs of ``RUN`` words of some texts, as 64-bit hashes of this process."""

    def __init__(self, texts: Iterable[str]) -> None:
        """Collect them; a text that occurs again costs nothing."""
        found = [_runs(text) for text in dict.fromkeys(texts)]
        self._hashes = np.unique(np.concatenate([np.empty(0, dtype=np.int64), *found]))

    def share(self, text: str) -> float:
        """Return which share of a text's runs occurs in them, 0 for a text of fewer words than a run."""
        own = _runs(text)
        if not len(own) or not len(self._hashes):
            return 0.0
        at = np.searchsorted(self._hashes, own)
        return float((self._hashes[np.minimum(at, len(self._hashes) - 1)] == own).mean())


def apart(items: Sequence[Item], runs: Runs, most: float = MOST) -> list[Item]:
    """Return the items none of whose passages with evidence is a near copy of the texts in ``runs``."""
    known: dict[Passage, bool] = {}

    def shared(passage: Passage) -> bool:
        if passage not in known:
            known[passage] = runs.share(passage.text) > most
        return known[passage]

    return [i for i in items if not any(p.relevant and shared(p) for p in i.passages)]


def _runs(text: str) -> IntArray:
    words = _WORD.findall(text.casefold())
    codes = np.fromiter(map(hash, words), dtype=np.int64, count=len(words)).view(np.uint64)
    if len(codes) < RUN:
        return np.empty(0, dtype=np.int64)
    total = np.zeros(len(codes) - RUN + 1, dtype=np.uint64)
    for k in range(RUN):  # a polynomial of the words' hashes, modulo 2^64
        total = total * np.uint64(0x9E3779B97F4A7C15) + codes[k : len(codes) - RUN + 1 + k]
    return total.view(np.int64)
