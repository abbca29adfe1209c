"""HtmlRAG's two steps (arXiv 2411.02959, 3.3 and 3.4): similarity on coarse blocks, paths on finer ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from tokenprune.arrays import BoolArray, FloatArray
from tokenprune.score import Scorer, within
from tokenprune.score.coarse import coarse_blocks
from tokenprune.score.generative import PathProbability
from tokenprune.select.budget import fill
from tokenprune.units import Units


@dataclass(frozen=True)
class TwoStep:
    """Score with one scorer; in the best coarse blocks, up to a budget, score units by their path as well.

    A coarse block is the largest element of at most ``coarse_words`` words around a unit, and is worth as
    much as its best unit: an encoder reads about 200 words at a time, so a block is read in parts. The
    generative scores are brought onto the scale of the first ones (same lowest and highest value) and mixed
    in: ``(1 - blend) * first + blend * generative``. Units outside the chosen blocks stay below all others.

    Args:
        first: reads all units.
        second: reads what the first one chose.
        first_budget: tokens, tags included, of what the second step reads; fewer where its model reads fewer.
        coarse_words: the paper uses 256 in its first step.
        blend: share of the generative score; 1 is the paper, which drops the first score.
    """

    first: Scorer
    second: PathProbability
    first_budget: int = 2048
    coarse_words: int = 256
    blend: float = 1.0

    def score(self, query: str, documents: Sequence[Units]) -> list[FloatArray]:
        """Return the mixed scores described above."""
        first = self.first.score(query, documents)
        if not sum(map(len, first)):
            return first
        keeps, found = self.second.score_best(
            query, documents, lambda budget: self._choose(documents, first, budget), self.first_budget
        )
        second = np.concatenate(found)
        chosen, flat = np.concatenate(keeps), np.concatenate(first)
        total = flat.copy()
        if chosen.any():
            scale = flat[chosen]
            spread = float(second.max() - second.min())
            part = (second - second.min()) / spread if spread > 0 else np.full(len(second), 0.5)
            onto = scale.min() + part * (scale.max() - scale.min())
            total[chosen] = (1 - self.blend) * scale + self.blend * onto
            rest = ~chosen
            if rest.any():
                total[rest] += min(0.0, float(total[chosen].min() - total[rest].max()) - 1e-6)
        return np.split(total, np.cumsum([len(u) for u in documents])[:-1])

    def within(self, max_tokens: int) -> TwoStep:
        """Return a scorer whose second step reads twice a budget, if that is more than it would have."""
        budget = max(self.first_budget, 2 * max_tokens)
        return replace(self, first=within(self.first, budget), first_budget=budget)

    def _choose(
        self, documents: Sequence[Units], scores: Sequence[FloatArray], budget: int
    ) -> list[BoolArray]:
        """The units of the best coarse blocks, up to a budget."""
        raised = []
        for units, score in zip(documents, scores, strict=True):
            block = coarse_blocks(units, self.coarse_words)
            best = np.full(int(block.max()) + 1 if len(block) else 0, -np.inf)
            np.maximum.at(best, block, score)
            raised.append(best[block])
        return fill(documents, raised, budget, lambda i, keep: documents[i].tokens(keep))
