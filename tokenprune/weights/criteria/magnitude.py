"""Magnitude |W| (Han et al. 2015, arXiv 1506.02626), ranked in each matrix."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from tokenprune.weights.criteria.base import ElementCriterion, Weights

if TYPE_CHECKING:
    import torch


class Magnitude(ElementCriterion):
    """|W|; needs no calibration, only takes it."""

    by_row: ClassVar[bool] = False

    def score(self, at: Weights) -> torch.Tensor:
        """Return |W|."""
        return at.weight.abs()
