"""FLAP's fluctuation: what replacing an input by its mean costs (An et al. 2023, arXiv 2312.11983, eq. 5)."""

from __future__ import annotations

from tokenprune.weights.units import LayerFacts, UnitCriterion, UnitScores, by_input


class Fluctuation(UnitCriterion):
    """Var(x_c) sum_i W_ic^2 at the inputs of o_proj and down_proj."""

    def score(self, at: LayerFacts) -> UnitScores:
        """Return the scores; a KV group is worth the mean of its inputs."""
        heads = at.stats["attention.out"].variance * at.matrices["o_proj"].square().sum(0)
        channels = at.stats["mlp.out"].variance * at.matrices["down_proj"].square().sum(0)
        return by_input(heads, channels, at.shape)
