"""Wanda: |W_ij| times the norm of input j (Sun et al. 2023, arXiv 2306.11695, eq. 1), ranked in each row."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenprune.weights.criteria.base import ElementCriterion, Weights

if TYPE_CHECKING:
    import torch


class Wanda(ElementCriterion):
    """|W| sqrt(E[x^2]); the mean instead of the sum changes no rank."""

    def score(self, at: Weights) -> torch.Tensor:
        """Return |W_ij| sqrt(E[x_j^2])."""
        return at.weight.abs() * at.inputs.rms
