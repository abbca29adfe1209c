"""Non-negative least squares with a few unknowns: what a request costs is never negative."""

from __future__ import annotations

import itertools

import numpy as np

from tokenprune.arrays import FloatArray

_APART = 1e-10  # keeps columns that are all but parallel apart


def non_negative(a: FloatArray, b: FloatArray) -> FloatArray:
    """Return the x >= 0 that minimises x'ax - 2b'x; of rows R with right sides y, a = R'R and b = R'y.

    Tries which x are zero until the conditions of Karush, Kuhn and Tucker hold, the likeliest choices first.

    Args:
        a: float64 [n, n], positive definite, n of a few.
        b: float64 [n].
    """
    scale = 1.0 / np.sqrt(a.diagonal())
    a, b = a * np.outer(scale, scale) + _APART * np.eye(len(b)), b * scale
    for size in range(len(b), 0, -1):
        for chosen in itertools.combinations(range(len(b)), size):
            rows = list(chosen)
            x = np.zeros(len(b))
            x[rows] = np.linalg.solve(a[np.ix_(rows, rows)], b[rows])
            slope = a @ x - b
            slope[rows] = 0.0
            if (x >= 0).all() and (slope >= -1e-9 * np.abs(b)).all():
                return np.asarray(x * scale)
    return np.zeros(len(b))
