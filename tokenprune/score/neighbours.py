"""Scores that look around: an answer seldom stands far from other words about the same thing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from tokenprune.arrays import FloatArray
from tokenprune.score import Scorer, within
from tokenprune.units import Units

BESIDE = 0.3
AROUND = 0.3


@dataclass(frozen=True)
class Neighbours:
    """Add to each unit's score a part of its neighbours' and of the best one's around it.

    A question names a table, an answer is one of its cells; a paragraph goes on with "it". So what matches
    lends to what stands beside it. The result of unit i is the weighted mean of its own score,
    those of the units before and behind it (``beside`` each), and the best one in the element (the section,
    list, table or paragraph) around it (``around``); at an edge its own score stands in for what is missing.

    Args:
        scorer: gives the scores.
        beside: weight of each of the two units next to a unit.
        around: weight of the best score in the innermost wrapper around a unit.
    """

    scorer: Scorer
    beside: float = BESIDE
    around: float = AROUND

    def score(self, query: str, documents: Sequence[Units]) -> list[FloatArray]:
        """Return weighted means, on the scorer's own scale."""
        scores = self.scorer.score(query, documents)
        pairs = zip(documents, scores, strict=True)
        return [smoothed(units, score, self.beside, self.around) for units, score in pairs]

    def within(self, max_tokens: int) -> Neighbours:
        """Pass a budget on."""
        return replace(self, scorer=within(self.scorer, max_tokens))


def smoothed(units: Units, score: FloatArray, beside: float = BESIDE, around: float = AROUND) -> FloatArray:
    """Return the weighted means of :class:`Neighbours` for one document, float64 [n]."""
    if not len(score):
        return score
    before = np.concatenate((score[:1], score[:-1]))
    behind = np.concatenate((score[1:], score[-1:]))
    best = np.full(len(units.wrapper_parent) + 1, -np.inf)
    np.maximum.at(best, units.wrapper, score)  # wrapper -1, the top of the document, is the last
    inside = np.where(units.wrapper >= 0, best[units.wrapper], score)
    total = score + beside * (before + behind) + around * inside
    return np.asarray(total / (1 + 2 * beside + around), dtype=np.float64)
