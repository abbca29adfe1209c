"""GBLM: Wanda's score plus the weight times its gradient (Das et al. 2023, arXiv 2311.04902, eq. 6)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pydantic import NonNegativeFloat

from tokenprune.weights.criteria.base import ElementCriterion, Weights

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Gblm(ElementCriterion):
    """|W| (||X||_2 + alpha ||G||_2).

    The norms are taken over tokens and over samples as in the paper, not averaged: their scales matter here.
    """

    alpha: NonNegativeFloat = 100.0
    needs_gradient: ClassVar[bool] = True

    def score(self, at: Weights) -> torch.Tensor:
        """Return the score; ``at.gradient`` must be there."""
        assert at.gradient is not None
        norm = at.inputs.squares.float().sqrt()
        return at.weight.abs() * (norm + self.alpha * at.gradient)
