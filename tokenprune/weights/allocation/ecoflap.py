"""ECoFLaP: zeroth-order estimates of each layer's gradient norm (Sung et al. 2023, arXiv 2310.02998, eq. 5).

Deviation: importance is the root mean square over directions of the finite difference, mapped to ratios
linearly, at most ``width`` apart.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt

from tokenprune.models.progress import SILENT, Reporter
from tokenprune.weights.allocation.base import LayerRatios, layer_costs
from tokenprune.weights.allocation.ratios import spread
from tokenprune.weights.sites import matrices
from tokenprune.weights.text import mean_nll

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class ZerothOrder(LayerRatios):
    """Two forward passes for each layer and direction, no backward pass.

    Attributes:
        width: Difference of the largest and the least ratio.
        step: Size of the perturbation relative to the root mean square of each matrix.
        directions: Random directions a layer.
        windows: Windows used of the calibration text.
        seed: Of the directions.
    """

    width: NonNegativeFloat = 0.2
    step: PositiveFloat = 1e-2
    directions: PositiveInt = 2
    windows: PositiveInt = 2
    seed: int = 0

    def ratios(
        self, model: Any, windows: torch.Tensor, sparsity: float, reporter: Reporter = SILENT
    ) -> list[float]:
        """Return ratios; the weights are perturbed and put back exactly."""
        importance = [0.0] * len(model.model.layers)
        text = windows[: self.windows]
        for index, layer in enumerate(model.model.layers):
            for direction in range(self.directions):
                slope = self._slope(model, layer, text, self.seed + index * self.directions + direction)
                importance[index] += slope * slope
        return spread([math.sqrt(v) for v in importance], sparsity, self.width, layer_costs(model))

    def _slope(self, model: Any, layer: Any, text: torch.Tensor, seed: int) -> float:
        """Central difference of the loss along one random direction of the layer's weights."""
        import torch

        saved = {name: w.clone() for name, w in matrices(layer).items()}
        losses = []
        try:
            for sign in (1.0, -1.0):
                random = torch.Generator().manual_seed(seed)
                for name, w in matrices(layer).items():
                    noise = torch.randn(w.shape, generator=random)
                    w.copy_(
                        saved[name] + noise * (sign * self.step * float(saved[name].square().mean().sqrt()))
                    )
                losses.append(mean_nll(model, text))
        finally:
            for name, w in matrices(layer).items():
                w.copy_(saved[name])
        return (losses[0] - losses[1]) / (2 * self.step)
