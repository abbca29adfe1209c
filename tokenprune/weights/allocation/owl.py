"""OWL: layers with more outliers among their Wanda scores lose less (Yin et al. 2023, arXiv 2310.05175)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import NonNegativeFloat, PositiveFloat

from tokenprune.models.progress import SILENT, Reporter
from tokenprune.weights.allocation.base import LayerRatios, layer_costs
from tokenprune.weights.allocation.ratios import spread
from tokenprune.weights.sites import sites
from tokenprune.weights.stream import Stream

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Owl(LayerRatios):
    """Ratios within 2 lambda of each other.

    Attributes:
        threshold: M: a score above M times its layer's mean is an outlier.
        limit: lambda: half the width of the ratios.
    """

    threshold: PositiveFloat = 5.0
    limit: NonNegativeFloat = 0.08

    def ratios(
        self, model: Any, windows: torch.Tensor, sparsity: float, reporter: Reporter = SILENT
    ) -> list[float]:
        """Return ratios; importance is the share of outliers in a layer (equation 1)."""
        stream = Stream(model, windows)
        shares = []
        reporter.stage("outliers", float(len(stream.layers)))
        for index, layer in enumerate(stream.layers):
            stats = stream.observe(index)
            scores = [w.abs() * stats[site.name].rms for site in sites(layer) for w in site.matrices.values()]
            count = sum(s.numel() for s in scores)
            mean = sum(float(s.sum()) for s in scores) / count
            shares.append(sum(int((s > self.threshold * mean).sum()) for s in scores) / count)
            stream.advance(index, reuse=True)
            reporter.advance(1)
        return spread(shares, sparsity, 2 * self.limit, layer_costs(model))
