"""DSnoT: swap pruned and kept weights of a row until what was lost is zero on average.

Zhang et al. 2023, arXiv 2310.08915, algorithm 1. Deviation: a swap that does not bring the row's error nearer
to zero ends the row (the published code lets the sign flip once).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import NonNegativeFloat, PositiveInt

from tokenprune.weights.statistics import InputStats

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Dsnot:
    """Refines masks.

    Attributes:
        cycles: Swaps of a row at most.
        threshold: A row whose absolute error is below this is left alone.
        power: Of the variance that regrowing divides by.
    """

    cycles: PositiveInt = 50
    threshold: NonNegativeFloat = 0.1
    power: float = 1.0

    def refine(self, pruned: torch.Tensor, weight: torch.Tensor, inputs: InputStats) -> torch.Tensor:
        """Return another mask with as many pruned weights in each row.

        Args:
            pruned: bool [out, in].
            weight: float32 [out, in], dense.
            inputs: Statistics of the matrix' input.
        """
        import torch

        pruned = pruned.clone()
        effect = weight * inputs.mean  # of a weight on the mean output
        metric = weight.abs() * inputs.rms
        regrow = effect / inputs.variance.clamp_min(1e-12) ** self.power
        error = (effect * pruned).sum(1)
        rows = torch.arange(len(weight))
        for _ in range(self.cycles):
            sign = error.sign()[:, None]
            gain = torch.where(pruned & (effect * sign > 0), regrow * sign, -torch.inf)
            loss = torch.where(~pruned & (effect * sign < 0), metric, torch.inf)
            back, out = gain.argmax(1), loss.argmin(1)
            new = error - effect[rows, back] + effect[rows, out]
            good = (gain[rows, back] > -torch.inf) & (loss[rows, out] < torch.inf)
            good &= (new.abs() < error.abs()) & (error.abs() > self.threshold)
            if not bool(good.any()):
                break
            at = rows[good]
            pruned[at, back[good]] = False
            pruned[at, out[good]] = True
            error = torch.where(good, new, error)
        return pruned
