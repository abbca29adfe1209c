"""Scores that look around: an answer seldom stands far from other words about the same thing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from tokenprune.arrays import FloatArray
from tokenprune.score import Scorer, within
from tokenprune.units import Units


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
    beside: float = 0.3
    around: float = 0.3

    def score(self, query: str, documents: Sequence[Units]) -> list[FloatArray]:
        """Return weighted means, on the scorer's own scale."""
        scores = self.scorer.score(query, documents)
        return [self._mean(units, score) for units, score in zip(documents, scores, strict=True)]

    def within(self, max_tokens: int) -> Neighbours:
        """Pass a budget on."""
        return replace(self, scorer=within(self.scorer, max_tokens))

    def _mean(self, units: Units, score: FloatArray) -> FloatArray:
        if not len(score):
            return score
        before = np.concatenate((score[:1], score[:-1]))
        behind = np.concatenate((score[1:], score[-1:]))
        best = np.full(len(units.wrapper_parent) + 1, -np.inf)
        np.maximum.at(best, units.wrapper, score)  # wrapper -1, the top of the document, is the last
        around = np.where(units.wrapper >= 0, best[units.wrapper], score)
        total = score + self.beside * (before + behind) + self.around * around
        return np.asarray(total / (1 + 2 * self.beside + self.around), dtype=np.float64)
