"""SparseGPT's saliency w^2 / [chol(H^-1)]_jj^2 (Frantar and Alistarh 2023, arXiv 2301.00774, section 3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pydantic import NonNegativeFloat

from tokenprune.weights.compensation.obs import inverse_factor
from tokenprune.weights.criteria.base import ElementCriterion, Weights

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class SparseGPT(ElementCriterion):
    """Ranked in the matrix; with compensation ``obs`` block by block, on updated weights."""

    damping: NonNegativeFloat = 0.01
    by_row: ClassVar[bool] = False
    needs_gram: ClassVar[bool] = True

    def score(self, at: Weights) -> torch.Tensor:
        """Return w^2 / d_j^2."""
        assert at.inputs.gram is not None
        return saliency(at.weight, inverse_factor(at.inputs.gram, self.damping).diagonal())


def saliency(weight: torch.Tensor, diagonal: torch.Tensor) -> torch.Tensor:
    """Return w^2 / d_j^2 for columns [out, n] and their entries of the factor's diagonal [n]."""
    return weight.square() / diagonal.square()
