"""Intervals of what was measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np


def interval(
    values: Sequence[float], rounds: int = 2000, seed: int = 0, statistic: Callable[..., Any] = np.mean
) -> tuple[float, float]:
    """Bootstrap 95% interval of the mean, or of the median (percentiles over ``rounds`` resamples)."""
    data = np.asarray(values, dtype=float)
    if not len(data):
        return float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    means = statistic(data[rng.integers(0, len(data), (rounds, len(data)))], axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)
