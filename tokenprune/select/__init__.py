"""Selectors: scores -> which units stay. A budget, when one is given, takes their place."""

from __future__ import annotations

from typing import Protocol

from tokenprune.arrays import BoolArray, FloatArray, IntArray


class Selector(Protocol):
    """Decides over the units of all documents of one pruner together."""

    def select(self, scores: FloatArray, cost: IntArray) -> BoolArray:
        """Return which units stay, bool [n], from scores float64 [n] and costs int64 [n] in tokens."""
        ...
