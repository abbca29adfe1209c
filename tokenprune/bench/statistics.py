"""Figures of what was measured: percentiles under vLLM's names, and bootstrap intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tokenprune.arrays import FloatArray

PERCENTILES = (50, 90, 99)
ENOUGH = 5  # cases; of fewer, a bootstrap's interval is too narrow to be believed
TAIL = 20  # requests; of fewer, a p99 is hardly more than the largest
ROUNDS = 2000
_CHUNK = 4_000_000  # numbers that one step of a bootstrap holds


def bootstrap(
    data: FloatArray, statistic: Callable[[FloatArray], Any], rounds: int = ROUNDS, seed: int = 0
) -> tuple[float, float]:
    """Return the 95% percentile interval of a statistic.

    Args:
        data: float64 [n, ...]; what is drawn, with replacement, are the n rows, each as a whole.
        statistic: from resamples, float64 [b, n, ...], to one number each, [b].
        rounds: resamples.
        seed: the same seed gives the same interval.

    Returns:
        The 2.5th and 97.5th percentile over the resamples; NaN where there is no data.
    """
    n = len(data)
    if not n:
        return float("nan"), float("nan")
    picks = np.random.default_rng(seed).integers(0, n, (rounds, n))
    step = max(1, _CHUNK // max(1, data.size))
    values = [statistic(data[picks[i : i + step]]) for i in range(0, rounds, step)]
    low, high = np.percentile(np.concatenate(values), [2.5, 97.5])
    return float(low), float(high)


def interval(
    values: Sequence[float], rounds: int = ROUNDS, seed: int = 0, statistic: Callable[..., Any] = np.mean
) -> tuple[float, float]:
    """Bootstrap 95% interval of the mean, or of another numpy reduction such as ``np.median``."""
    return bootstrap(np.asarray(values, dtype=float), lambda drawn: statistic(drawn, axis=1), rounds, seed)


def spread(values: Sequence[float], name: str) -> dict[str, float | None]:
    """Return mean, standard deviation, median and percentiles as vLLM's benchmark client names them.

    Args:
        values: one number per request (per token for inter-token latencies), in the unit of the name.
        name: e.g. ``ttft_ms``: the keys are ``mean_ttft_ms``, ``std_ttft_ms``, ``median_ttft_ms``,
            ``p50_ttft_ms``, ``p90_ttft_ms``, ``p99_ttft_ms``; all are None where there are no values.
    """
    keys = [f"{stem}_{name}" for stem in ("mean", "std", "median", *(f"p{p}" for p in PERCENTILES))]
    if not len(values):
        return dict.fromkeys(keys)
    found = [np.mean(values), np.std(values), np.median(values), *np.percentile(values, PERCENTILES)]
    return {key: float(value) for key, value in zip(keys, found, strict=True)}
