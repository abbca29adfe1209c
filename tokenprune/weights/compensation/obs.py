"""Optimal brain surgeon column by column, in blocks, as SparseGPT runs it (arXiv 2301.00774, algorithm 1)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import NonNegativeFloat, PositiveInt

from tokenprune.errors import RecipeError

if TYPE_CHECKING:
    import torch

# (weights as they are now [out, n], their part of the factor's diagonal [n], first column) -> pruned [out, n]
Choose = Callable[["torch.Tensor", "torch.Tensor", int], "torch.Tensor"]


@dataclass(frozen=True)
class Obs:
    """Update what stays after SparseGPT.

    Attributes:
        block: Columns of a block; SparseGPT's criterion also ranks inside of it.
        damping: Share of the mean diagonal.
    """

    block: PositiveInt = 128
    damping: NonNegativeFloat = 0.01


def inverse_factor(gram: torch.Tensor, damping: float) -> torch.Tensor:
    """Return the upper Cholesky factor of H^-1 with H = X X^T, damped; scaling H changes no result.

    Args:
        gram: X X^T [in, in]; an input that was always zero gets a one on the diagonal.
        damping: Share of the mean diagonal that is added to the diagonal.

    Raises:
        RecipeError: The matrix is not positive definite even so, or not finite.
    """
    import torch

    hessian = gram.clone()
    diagonal = hessian.diagonal()
    diagonal[diagonal == 0] = 1.0
    diagonal += damping * diagonal.mean()
    lower, bad = torch.linalg.cholesky_ex(hessian)
    if bad:
        raise RecipeError("X X^T is not positive definite: give more calibration text, or raise the damping")
    factor, bad = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
    if bad or not bool(torch.isfinite(factor).all()):
        raise RecipeError("X X^T cannot be inverted: give more calibration text, or raise the damping")
    return factor


def prune_columns(
    weight: torch.Tensor, factor: torch.Tensor, choose: Choose, step: int = 128, block: int = 128
) -> torch.Tensor:
    """Zero what ``choose`` names and update the columns behind it; ``weight`` changes in place.

    Args:
        weight: float32 [out, in].
        factor: `inverse_factor` [in, in].
        choose: Asked every ``step`` columns, with those columns as updated so far.
        step: Columns chosen at once; divides ``block``.
        block: Columns whose updates are collected before the rest of the matrix gets them.

    Returns:
        bool [out, in], True where pruned.
    """
    import torch

    width = weight.shape[1]
    pruned = torch.zeros_like(weight, dtype=torch.bool)
    for first in range(0, width, block):
        last = min(first + block, width)
        errors = torch.zeros_like(weight[:, first:last])
        for column in range(first, last):
            if (column - first) % step == 0:
                end = min(column + step, last)
                diagonal = factor.diagonal()[column:end]
                pruned[:, column:end] = choose(weight[:, column:end], diagonal, column)
            gone = torch.where(pruned[:, column], weight[:, column], 0.0)
            error = gone / factor[column, column]
            errors[:, column - first] = error
            weight[:, column:last].addr_(error, factor[column, column:last], alpha=-1)
            weight[:, column].masked_fill_(pruned[:, column], 0.0)
        weight[:, last:].addmm_(errors, factor[first:last, last:], alpha=-1)
    return pruned
