"""The kept columns that reproduce a matrix' output best: OBS for columns that go together, in one solve."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tokenprune.errors import RecipeError

if TYPE_CHECKING:
    import torch


def refit(
    weight: torch.Tensor, gram: torch.Tensor, stay: Sequence[int], damping: float = 0.01
) -> torch.Tensor:
    """Return W' = W + W_gone G_gone,stay (G_stay,stay + d I)^-1 on the kept columns, zero elsewhere.

    It minimises E|W x - W'_stay x_stay|^2 + d |W'_stay - W_stay|^2: damping holds to the old weights.

    Args:
        weight: [out, in].
        gram: X X^T [in, in].
        stay: Columns that are kept.
        damping: d as a share of the mean diagonal.

    Raises:
        RecipeError: The system cannot be solved.
    """
    import torch

    stays = torch.zeros(weight.shape[1], dtype=torch.bool)
    stays[list(stay)] = True
    out = torch.zeros_like(weight)
    if not bool(stays.any()):
        return out
    left = gram[stays][:, stays].clone()
    left.diagonal().add_(damping * gram.diagonal().mean() + 1e-12)
    lower, bad = torch.linalg.cholesky_ex(left)
    if bad:
        raise RecipeError("X X^T is not positive definite: give more calibration text, or raise the damping")
    right = gram[stays][:, ~stays] @ weight[:, ~stays].T
    out[:, stays] = weight[:, stays] + torch.cholesky_solve(right, lower).T
    return out
