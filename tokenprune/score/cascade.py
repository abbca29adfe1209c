"""A cheap scorer for all units, an expensive one for the best of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from tokenprune.arrays import BoolArray, FloatArray, IntArray
from tokenprune.score import Scorer
from tokenprune.select.simple import ranking
from tokenprune.units import Units


@dataclass(frozen=True)
class Cascade:
    """Score everything cheaply, the most promising units again with a better scorer.

    The idea of IDCM (arXiv 2105.09816): the expensive model reads what the cheap one could not rule out.
    Every unit scores ``weight * cheap / best cheap + expensive``; for one that only the cheap scorer read,
    the expensive part is the lowest that was given.

    Args:
        cheap: reads all units.
        expensive: reads the chosen ones; its scores should lie roughly within [0, 1].
        max_tokens: how many tokens of units the expensive scorer may read in one call.
        weight: of the cheap score, as a share of the best one, in the sum.
    """

    cheap: Scorer
    expensive: Scorer
    max_tokens: int = 2048
    weight: float = 0.3

    def score(self, query: str, documents: Sequence[Units]) -> list[FloatArray]:
        """Return the sums described above."""
        first = self.cheap.score(query, documents)
        flat = np.concatenate(first) if first else np.empty(0)
        if not len(flat):
            return first
        chosen = worth_reading(documents, flat, self.max_tokens)
        bounds = np.cumsum([len(u) for u in documents])[:-1]
        masks = np.split(chosen, bounds)
        parts = [_subset(u, np.flatnonzero(m)) for u, m in zip(documents, masks, strict=True)]
        second = np.concatenate(self.expensive.score(query, parts))
        share = self.weight * flat / max(float(np.abs(flat).max()), 1e-9)
        return np.split(share + or_lowest(second, chosen), bounds)

    def within(self, max_tokens: int) -> Cascade:
        """Return a scorer that reads enough to fill a budget with what it has read: twice as many tokens."""
        return replace(self, max_tokens=max(self.max_tokens, 2 * max_tokens))


def worth_reading(documents: Sequence[Units], cheap: FloatArray, max_tokens: int) -> BoolArray:
    """Choose the units with the best cheap scores, at least one, that hold ``max_tokens`` together.

    Args:
        documents: segmented documents, n units in all.
        cheap: float64 [n] of all documents, one behind the other; not empty.
        max_tokens: of the units chosen.

    Returns:
        bool [n].
    """
    cost = np.concatenate([u.cost for u in documents])
    order = ranking(cheap)
    chosen = np.zeros(len(cheap), dtype=bool)
    within = np.cumsum(np.maximum(cost[order], 1)) <= max_tokens
    within[0] = True
    chosen[order[within]] = True
    return chosen


def or_lowest(scores: FloatArray, read: BoolArray) -> FloatArray:
    """Put scores of the units that were read in their places, the lowest of them in the others."""
    full = np.full(len(read), scores.min())
    full[read] = scores
    return full


def from_0_to_1(scores: Sequence[FloatArray]) -> list[FloatArray]:
    """Spread the scores of a call, at least one, from 0 (the lowest) to 1; all are 0 if they are equal."""
    flat = np.concatenate(scores)
    low, high = float(flat.min()), float(flat.max())
    return [(s - low) / max(high - low, 1e-9) for s in scores]


def _subset(units: Units, index: IntArray) -> Units:
    """The columns that scorers read, of some units."""
    return replace(
        units,
        texts=[units.texts[i] for i in index.tolist()],
        context=[units.context[i] for i in index.tolist()],
        cost=units.cost[index],
    )
