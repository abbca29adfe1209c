"""AMP: what a unit's activations, projected on its output weights, add to the residual stream.

Mugnaini et al. 2025, arXiv 2504.21174. Deviation: the root mean square over tokens of the norm of what a KV
group or channel adds, where the paper averages magnitudes of projections of query heads; heads are taken by
KV group.
"""

from __future__ import annotations

from typing import ClassVar

import torch

from tokenprune.weights.units import LayerFacts, UnitCriterion, UnitScores


class Projection(UnitCriterion):
    """sqrt(E ||W_u x_u||^2) for the inputs x_u and columns W_u of a unit."""

    gram: ClassVar[frozenset[str]] = frozenset({"attention.out"})

    def score(self, at: LayerFacts) -> UnitScores:
        """Return the scores; X X^T of o_proj's input must be there."""
        inputs, weight = at.stats["attention.out"], at.matrices["o_proj"]
        assert inputs.gram is not None
        wide = at.shape.queries_per_kv * at.shape.head_dim
        power = torch.stack(
            [
                (
                    weight[:, i : i + wide]
                    @ inputs.gram[i : i + wide, i : i + wide]
                    * weight[:, i : i + wide]
                ).sum()
                for i in range(0, weight.shape[1], wide)
            ]
        )
        heads = (power / max(inputs.count, 1)).clamp_min(0).sqrt()
        channels = at.stats["mlp.out"].rms * at.matrices["down_proj"].norm(dim=0)
        return UnitScores(heads[:, None], channels)
