"""Wanda's score summed over columns of o_proj and down_proj: Wanda-sp of arXiv 2312.11983."""

from __future__ import annotations

from tokenprune.weights.units import LayerFacts, UnitCriterion, UnitScores, by_input


class WandaUnits(UnitCriterion):
    """sqrt(E[x_c^2]) sum_i |W_ic|; a KV group is worth the mean of its inputs of o_proj."""

    def score(self, at: LayerFacts) -> UnitScores:
        """Return the scores."""
        heads = at.stats["attention.out"].rms * at.matrices["o_proj"].abs().sum(0)
        channels = at.stats["mlp.out"].rms * at.matrices["down_proj"].abs().sum(0)
        return by_input(heads, channels, at.shape)
