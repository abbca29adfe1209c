"""The L2 norm of all weights that leave with a unit (Li et al. 2016, arXiv 1608.08710)."""

from __future__ import annotations

from tokenprune.weights.units import LayerFacts, UnitCriterion, UnitScores, coupled_sum


class UnitMagnitude(UnitCriterion):
    """||w||_2 over the coupled slices."""

    def score(self, at: LayerFacts) -> UnitScores:
        """Return the norms."""
        sums = coupled_sum({name: w.square() for name, w in at.matrices.items()}, at.shape)
        return UnitScores(sums.kv.sqrt(), sums.channels.sqrt())
