"""The interface of allocations that give each layer a ratio."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tokenprune.models.progress import SILENT, Reporter
from tokenprune.weights.sites import matrices

if TYPE_CHECKING:
    import torch


class LayerRatios:
    """Decides which share of each layer goes."""

    def ratios(
        self, model: Any, windows: torch.Tensor, sparsity: float, reporter: Reporter = SILENT
    ) -> list[float]:
        """Return a ratio in [0, 1] for each layer; weighted by layer sizes their mean is ``sparsity``.

        Args:
            model: The dense model; it stays as it is.
            windows: Calibration text, int64 [n, tokens].
            sparsity: Share of the whole that goes.
            reporter: Told of the passes.
        """
        raise NotImplementedError


def layer_costs(model: Any) -> Sequence[int]:
    """Return the weights in the matrices of each layer."""
    return [sum(w.numel() for w in matrices(layer).values()) for layer in model.model.layers]
