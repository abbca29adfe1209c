"""Ratios from how far each layer moves the hidden states: as in CFSP and as in Adapt-Pruner."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import NonNegativeFloat

from tokenprune.models.progress import SILENT, Reporter
from tokenprune.weights.allocation.base import LayerRatios, layer_costs
from tokenprune.weights.allocation.ratios import spread
from tokenprune.weights.influence import similarities

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class AngularInfluence(LayerRatios):
    """CFSP: importance is the sigmoid of the standardised angular distance (arXiv 2409.13199, eq. 2 to 4).

    Deviation: importance is mapped to ratios linearly, at most ``width`` apart.
    """

    width: NonNegativeFloat = 0.2

    def ratios(
        self, model: Any, windows: torch.Tensor, sparsity: float, reporter: Reporter = SILENT
    ) -> list[float]:
        """Return ratios."""
        cosines = similarities(model, windows, reporter)
        angles = [math.acos(max(-1.0, min(1.0, c))) / math.pi for c in cosines]
        mean = sum(angles) / len(angles)
        deviation = math.sqrt(sum((a - mean) ** 2 for a in angles) / len(angles)) or 1.0
        return spread(
            [1 / (1 + math.exp((mean - a) / deviation)) for a in angles],
            sparsity,
            self.width,
            layer_costs(model),
        )


@dataclass(frozen=True)
class Similarity(LayerRatios):
    """Adapt-Pruner: a layer matters as much as its output is unlike its input (arXiv 2502.03460, 3.1)."""

    width: NonNegativeFloat = 0.1

    def ratios(
        self, model: Any, windows: torch.Tensor, sparsity: float, reporter: Reporter = SILENT
    ) -> list[float]:
        """Return ratios; importance is the negative cosine."""
        cosines = similarities(model, windows, reporter)
        return spread([-c for c in cosines], sparsity, self.width, layer_costs(model))
