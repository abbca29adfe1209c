"""CFSP's fine-grained score of FFN channels (Wang et al. 2024, arXiv 2409.13199, section 3.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from tokenprune.weights.units import LayerFacts, UnitCriterion, UnitScores


@dataclass(frozen=True)
class Cfsp(UnitCriterion):
    """(|W_down| ||x||^b + |W_up'| + |W_gate'|) ||x||^c, each matrix normalised over channels.

    Attributes:
        inner: b.
        outer: c.
    """

    inner: float = 0.5
    outer: float = 0.5
    channels_only: ClassVar[bool] = True

    def score(self, at: LayerFacts) -> UnitScores:
        """Return scores of channels; KV groups get infinity, they all stay."""
        norm = at.stats["mlp.out"].squares.float().sqrt()
        down = at.matrices["down_proj"].abs()
        parts = [down / down.sum(1, keepdim=True).clamp_min(1e-12) * norm**self.inner]
        for name in ("up_proj", "gate_proj"):
            weight = at.matrices[name].abs().T
            parts.append(weight / weight.sum(1, keepdim=True).clamp_min(1e-12))
        score = (parts[0] + parts[1] + parts[2]).sum(0) * norm**self.outer
        return UnitScores(torch.full((at.shape.kv_heads, 1), torch.inf), score)
