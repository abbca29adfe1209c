"""LLM-Pruner's Taylor importance of coupled slices (Ma et al. 2023, arXiv 2305.11627, section 3.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from tokenprune.weights.units import LayerFacts, UnitCriterion, UnitScores, coupled_sum

_COLUMNS = ("o_proj", "down_proj")  # of these a unit has columns, of the others rows


@dataclass(frozen=True)
class Taylor(UnitCriterion):
    """How much the loss changes to first or second order when a unit's weights go.

    Attributes:
        kind: ``vectorised`` the sum of |sum g w| over the rows and columns of a unit, ``first`` sum |g w|,
            ``second`` sum w^2 h with h the sum of squared gradients (diagonal of the Fisher information),
            ``mixed`` sum |g w - w^2 h / 2|.
    """

    kind: Literal["vectorised", "first", "second", "mixed"] = "mixed"
    needs_gradient: ClassVar[bool] = True

    def score(self, at: LayerFacts) -> UnitScores:
        """Return the scores; gradients must be there."""
        assert at.gradients is not None and at.squares is not None
        first = {name: at.gradients[name] * w for name, w in at.matrices.items()}
        if self.kind == "vectorised":
            slices = {n: v.sum(0 if n in _COLUMNS else 1, keepdim=True).abs() for n, v in first.items()}
            return coupled_sum(slices, at.shape)
        if self.kind == "first":
            return coupled_sum({name: value.abs() for name, value in first.items()}, at.shape)
        second = {name: at.squares[name] * w.square() for name, w in at.matrices.items()}
        if self.kind == "second":
            return coupled_sum(second, at.shape)
        return coupled_sum({n: (first[n] - second[n] / 2).abs() for n in first}, at.shape)
