"""Pruning single weights, layer after layer: each is judged by what the pruned layers before it put out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tokenprune.errors import RecipeError
from tokenprune.models.progress import SILENT, Reporter
from tokenprune.weights.choose import Pattern, lowest, n_of_m
from tokenprune.weights.compensation.dsnot import Dsnot
from tokenprune.weights.compensation.obs import Obs, check_sets, inverse_factor, prune_columns, prune_groups
from tokenprune.weights.criteria.base import ElementCriterion, Weights
from tokenprune.weights.criteria.sparsegpt import SparseGPT, saliency
from tokenprune.weights.journal import Journal
from tokenprune.weights.rounding import Carry
from tokenprune.weights.sites import matrices, sites
from tokenprune.weights.statistics import InputStats
from tokenprune.weights.stream import Stream

if TYPE_CHECKING:
    import torch

Gradients = Sequence[Mapping[str, "torch.Tensor"]]
See = Callable[["torch.Tensor", "torch.Tensor"], None]  # a matrix, and what of it was pruned


@dataclass(frozen=True)
class ElementPruning:
    """How single weights go.

    Attributes:
        criterion: What they are worth.
        pattern: N:M, or None for any place.
        compensation: `Obs`, `Dsnot` or None.
        propagate_pruned: The next layer is judged by pruned outputs (as published for Wanda and SparseGPT),
            else by dense ones.
    """

    criterion: ElementCriterion
    pattern: Pattern | None = None
    compensation: Obs | Dsnot | None = None
    propagate_pruned: bool = True

    def __post_init__(self) -> None:
        """Raise RecipeError for a joint choice where there is none, or too much of it."""
        if isinstance(self.compensation, Obs) and self.compensation.joint:
            if self.pattern is None or not isinstance(self.criterion, SparseGPT):
                raise RecipeError("obs with joint: true is for the criterion sparsegpt with a pattern")
            check_sets(self.pattern)

    def run(
        self,
        model: Any,
        windows: torch.Tensor,
        ratios: Sequence[float],
        gradients: Gradients | None = None,
        reporter: Reporter = SILENT,
        journal: Journal | None = None,
        see: See | None = None,
    ) -> None:
        """Prune ``model`` in place.

        Args:
            model: A transformers decoder in float32.
            windows: int64 [n, tokens].
            ratios: Share of each layer's weights that go; ignored with a pattern.
            gradients: For each layer: matrix name -> root of the sum of squared gradients [out, in].
            reporter: Told of each layer.
            journal: Keeps the weights of every finished layer; a run that was stopped goes on behind them.
            see: Told of each matrix and its mask, bool [out, in], True where pruned; not of those that the
                journal held.
        """
        import torch

        journal = journal or Journal()
        stream, carry = Stream(model, windows), Carry()
        needs_gram = self.criterion.needs_gram or isinstance(self.compensation, Obs)
        reporter.stage("pruning layers", float(len(stream.layers)))
        with torch.no_grad():
            for index, layer in enumerate(stream.layers):
                finished = journal.get(f"layer-{index}")
                if finished is None:
                    stats = stream.observe(index, frozenset("*" if needs_gram else ()))
                if not self.propagate_pruned:
                    stream.advance(index, reuse=finished is None)
                for site in sites(layer):
                    for name, weight in site.matrices.items():
                        count = carry.take(ratios[index] * weight.numel())
                        if finished is not None:
                            weight.copy_(finished[name])
                            continue
                        gradient = None if gradients is None else gradients[index][name]
                        mask = self.prune(weight, stats[site.name], count, gradient)
                        if see is not None:
                            see(weight, mask)
                if finished is None:
                    journal.put(f"layer-{index}", {n: w.clone() for n, w in matrices(layer).items()})
                if self.propagate_pruned:
                    stream.advance(index)
                reporter.advance(1)

    def prune(
        self, weight: torch.Tensor, inputs: InputStats, count: int, gradient: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Prune one matrix in place and return the mask, bool [out, in], True where pruned.

        Args:
            weight: float32 [out, in].
            inputs: Statistics of its input.
            count: Weights that go; ignored with a pattern.
            gradient: [out, in] for criteria that need it.
        """
        at = Weights(weight, inputs, gradient)
        if isinstance(self.compensation, Obs):
            return self._updated(at, count, self.compensation)
        pruned = self._choose(self.criterion.score(at), count)
        if isinstance(self.compensation, Dsnot):
            pruned = self.compensation.refine(pruned, weight, inputs)
        weight.masked_fill_(pruned, 0.0)
        return pruned

    def _choose(self, score: torch.Tensor, count: int) -> torch.Tensor:
        if self.pattern is not None:
            return n_of_m(score, self.pattern)
        return lowest(score, count, self.criterion.by_row)

    def _updated(self, at: Weights, count: int, obs: Obs) -> torch.Tensor:
        """Prune, and update what stays, in the order of ``obs``."""
        import torch

        gram, pattern = at.inputs.gram, self.pattern
        assert gram is not None
        step = 1 if pattern is None else pattern.of
        order = obs.columns(gram, step)
        factor = inverse_factor(gram[order][:, order], obs.damping)
        weight = at.weight[:, order]
        if not isinstance(self.criterion, SparseGPT):
            chosen = self._choose(self.criterion.score(at), count)[:, order]
            found = prune_columns(weight, factor, lambda now, d, at: chosen[:, at : at + now.shape[1]])
        elif pattern is not None and obs.joint:
            found = prune_groups(weight, factor, pattern, obs.block)
        else:
            found = self._fused(weight, factor, count, obs)
        at.weight[:, order] = weight
        pruned = torch.empty_like(found)
        pruned[:, order] = found
        return pruned

    def _fused(self, weight: torch.Tensor, factor: torch.Tensor, count: int, obs: Obs) -> torch.Tensor:
        """Select and update in one go: the criterion sees weights that were updated already."""
        share, carry, pattern = count / weight.numel(), Carry(), self.pattern

        def choose(now: torch.Tensor, diagonal: torch.Tensor, first: int) -> torch.Tensor:
            score = saliency(now, diagonal)
            if pattern is not None:
                return n_of_m(score, pattern)
            return lowest(score, carry.take(share * score.numel()), by_row=False)

        step = obs.block if pattern is None else pattern.of
        block = max(obs.block // step, 1) * step  # groups of a pattern do not cross blocks
        return prune_columns(weight, factor, choose, step, block)
