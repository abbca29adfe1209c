"""Sentence rounding of labelers (Provence, arXiv 2501.16214): how much stays adapts to each passage."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tokenprune.arrays import BoolArray, FloatArray, IntArray
from tokenprune.models.labeler import Labeler


@dataclass(frozen=True)
class KeepProbability:
    """Keep units whose mean keep probability is above a threshold.

    Args:
        model: the labeler that gave the scores; it is loaded by then.
        threshold: None takes the model's own.
    """

    model: str | Labeler
    threshold: float | None = None

    def select(self, scores: FloatArray, cost: IntArray) -> BoolArray:
        """Compare with the threshold."""
        if not len(scores):
            return np.zeros(0, dtype=bool)
        least = Labeler.of(self.model).default_threshold if self.threshold is None else self.threshold
        return np.asarray(scores > least, dtype=bool)
