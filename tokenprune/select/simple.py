"""Selectors that look at scores and costs alone: everything, threshold, share of the best, ratio, top-k."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tokenprune.arrays import BoolArray, FloatArray, IntArray
from tokenprune.errors import BudgetError


def ranking(scores: FloatArray) -> IntArray:
    """Unit numbers from the best score to the worst; equal scores in document order."""
    return np.argsort(-scores, kind="stable").astype(np.int64)


def best_first(scores: Sequence[FloatArray]) -> Iterator[tuple[int, int]]:
    """Yield (document, unit) from the best score down; equal scores in order.

    Args:
        scores: float64 [n] per document, on one scale; a unit with minus infinity is left out.
    """
    sizes = [len(s) for s in scores]
    of = np.repeat(np.arange(len(sizes)), sizes)
    local = np.arange(sum(sizes)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    flat = np.concatenate([np.empty(0), *scores])
    order = ranking(flat)[: int((flat > -np.inf).sum())]
    yield from zip(of[order].tolist(), local[order].tolist(), strict=True)


@dataclass(frozen=True)
class Everything:
    """Keep all."""

    def select(self, scores: FloatArray, cost: IntArray) -> BoolArray:
        """Return all true."""
        return np.ones(len(scores), dtype=bool)


@dataclass(frozen=True)
class Threshold:
    """Keep units that score at least ``threshold`` on the scorer's own scale."""

    threshold: float

    def select(self, scores: FloatArray, cost: IntArray) -> BoolArray:
        """Compare with the threshold."""
        return np.asarray(scores >= self.threshold, dtype=bool)


@dataclass(frozen=True)
class ShareOfBest:
    """Keep units that score at least ``share`` of the best one; nothing when the best is not above ``floor``.

    How much stays adapts to the text: one clear winner stays alone, a flat field stays whole.
    """

    share: float = 0.5
    floor: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise BudgetError(f"share must lie between 0 and 1, not {self.share}")

    def select(self, scores: FloatArray, cost: IntArray) -> BoolArray:
        """Compare with a share of the maximum."""
        if not len(scores) or scores.max() <= self.floor:
            return np.zeros(len(scores), dtype=bool)
        return np.asarray(scores >= self.share * scores.max(), dtype=bool)


@dataclass(frozen=True)
class KeepRatio:
    """Keep the best units up to ``ratio`` of all tokens."""

    ratio: float

    def __post_init__(self) -> None:
        if not 0 <= self.ratio <= 1:
            raise BudgetError(f"keep ratio must lie between 0 and 1, not {self.ratio}")

    def select(self, scores: FloatArray, cost: IntArray) -> BoolArray:
        """Take units from the best down while they fit."""
        keep = np.zeros(len(scores), dtype=bool)
        left = int(self.ratio * int(cost.sum()) + 1e-9)
        for i in ranking(scores).tolist():
            if cost[i] <= left:
                keep[i] = True
                left -= int(cost[i])
        return keep


@dataclass(frozen=True)
class TopK:
    """Keep the ``k`` best units."""

    k: int

    def __post_init__(self) -> None:
        if self.k < 0:
            raise BudgetError(f"top_k must be 0 or more, not {self.k}")

    def select(self, scores: FloatArray, cost: IntArray) -> BoolArray:
        """Take the first k of the ranking."""
        keep = np.zeros(len(scores), dtype=bool)
        keep[ranking(scores)[: self.k]] = True
        return keep
