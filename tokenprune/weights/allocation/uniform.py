"""The same ratio everywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tokenprune.models.progress import SILENT, Reporter
from tokenprune.weights.allocation.base import LayerRatios

if TYPE_CHECKING:
    import torch


class Uniform(LayerRatios):
    """Every layer loses the same share."""

    def ratios(
        self, model: Any, windows: torch.Tensor, sparsity: float, reporter: Reporter = SILENT
    ) -> list[float]:
        """Return ``sparsity`` for each layer."""
        return [sparsity] * len(model.model.layers)
