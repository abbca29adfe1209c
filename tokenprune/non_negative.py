"""Non-negative least squares with a few unknowns: what a request costs is never negative."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

from tokenprune.arrays import FloatArray

_APART = 1e-10  # keeps columns that are all but parallel apart


def non_negative(a: FloatArray, b: FloatArray, near: FloatArray | None = None) -> FloatArray:
    """Return the x >= 0 that minimises x'ax - 2b'x; of rows R with right sides y, a = R'R and b = R'y.

    Tries which x are zero until the conditions of Karush, Kuhn and Tucker hold, the likeliest choices first.

    Args:
        a: float64 [n, n], positive definite, n of a few.
        b: float64 [n].
        near: float64 [n], the solution of a problem like this one: its choice is tried first.
    """
    scale = 1.0 / np.sqrt(a.diagonal())
    a, b = a * np.outer(scale, scale) + _APART * np.eye(len(b)), b * scale
    for rows in _choices(len(b), near):
        x = np.zeros(len(b))
        x[rows] = np.linalg.solve(a[rows][:, rows], b[rows])
        slope = a @ x - b
        slope[rows] = 0.0
        if (x >= 0).all() and (slope >= -1e-9 * np.abs(b)).all():
            return np.asarray(x * scale)
    return np.zeros(len(b))


def _choices(count: int, near: FloatArray | None) -> Iterator[list[int]]:
    """What may be above zero, the more the sooner."""
    if near is not None and near.any():
        yield np.flatnonzero(near).tolist()
    for size in range(count, 0, -1):
        yield from map(list, itertools.combinations(range(count), size))
