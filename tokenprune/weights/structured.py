"""Pruning KV groups and FFN channels of dense layers: score all, allocate, compensate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from tokenprune.errors import RecipeError
from tokenprune.models.progress import SILENT, Reporter
from tokenprune.weights.allocation.base import LayerRatios
from tokenprune.weights.allocation.units import Norm, Units, by_ratio, most_saved, pooled
from tokenprune.weights.compensation.bias import mean_bias
from tokenprune.weights.compensation.least_squares import refit
from tokenprune.weights.gradients import PerLayer, gradients
from tokenprune.weights.journal import Journal
from tokenprune.weights.kept import Kept, LayerKept, Shape
from tokenprune.weights.latency import Latency
from tokenprune.weights.learned_units import LoraImportance
from tokenprune.weights.sites import matrices
from tokenprune.weights.statistics import InputStats
from tokenprune.weights.stream import Stream
from tokenprune.weights.units import (
    Constraints,
    CostName,
    LayerFacts,
    UnitCosts,
    UnitCriterion,
    UnitScores,
    check_dense,
)

if TYPE_CHECKING:
    import torch

_OUT = ("attention.out", "mlp.out")


@dataclass(frozen=True)
class UnitPruning:
    """How units go.

    Attributes:
        criterion: What they are worth.
        allocation: Ratios of layers, or how the scores of one pool are made comparable.
        compensation: ``bias`` from dense statistics (FLAP), ``least-squares`` layer after layer, or None.
        limits: What serving needs.
        costs: What the target counts.
        latency: What was measured, for a cost of latency.
        spared_first: Layers at the start that lose nothing (LLM-Pruner spares 4 of 32, and 2 at the end).
        spared_last: Layers at the end that lose nothing.
    """

    criterion: UnitCriterion | LoraImportance
    allocation: LayerRatios | Norm = "zscore"
    compensation: Literal["bias", "least-squares"] | None = None
    limits: Constraints = field(default_factory=Constraints)
    costs: CostName = "params"
    latency: Latency | None = None
    spared_first: int = 0
    spared_last: int = 0

    def run(
        self,
        model: Any,
        windows: torch.Tensor,
        sparsity: float,
        reporter: Reporter = SILENT,
        before: Kept | None = None,
        journal: Journal | None = None,
    ) -> tuple[Kept, dict[str, torch.Tensor]]:
        """Prune ``model`` in place: pruned columns of o_proj and down_proj become zero, kept ones may change.

        Args:
            model: A dense transformers decoder in float32.
            windows: int64 [n, tokens].
            sparsity: Share of the decoder layers' cost that goes.
            reporter: Told of each layer.
            before: What an earlier round on this model left; the target counts what went then.
            journal: Keeps the scores of every layer, and what was refitted.

        Returns:
            What stays, and the biases (see `tokenprune.weights.kept`).

        Raises:
            RecipeError: The target cannot be met, or the model has experts.
        """
        shape = self.shape_of(model)
        journal = journal or Journal()
        if isinstance(self.criterion, LoraImportance):
            return self.criterion.run(model, windows, self, sparsity, reporter, journal), {}
        scores, means = self._score(model, windows, shape, reporter, journal)
        if before is not None:
            there = zip(scores, before.layers, strict=True)
            scores = [score.without(layer.kv_heads, layer.channels) for score, layer in there]
        units = self.allocate(model, windows, scores, sparsity, shape, reporter)
        kept = Kept(tuple(LayerKept(True, kv, True, channels) for kv, channels in units))
        biases: dict[str, torch.Tensor] = {}
        if self.compensation == "least-squares":
            self._refit(model, windows, kept, shape, reporter, journal)
        for index, layer in enumerate(model.model.layers):
            for weight, key, stats, stay in _outputs(layer, kept.layers[index], means[index], shape):
                gone = sorted(set(range(weight.shape[1])) - set(stay))
                if self.compensation == "bias" and gone:
                    biases[f"layers.{index}.{key}"] = mean_bias(weight, stats, gone)
                weight[:, gone] = 0.0
        return kept, biases

    def _score(
        self, model: Any, windows: torch.Tensor, shape: Shape, reporter: Reporter, journal: Journal
    ) -> tuple[list[UnitScores], list[dict[str, InputStats]]]:
        """One pass of dense outputs; what is remembered of a layer are vectors."""
        assert isinstance(self.criterion, UnitCriterion)
        total: PerLayer | None = None
        squares: PerLayer | None = None
        found = [journal.get(f"scores-{index}") for index in range(shape.layers)]
        scores = [UnitScores(*one["scores"]) for one in found if one is not None]
        remembered = [
            {site: InputStats.of_plain(plain) for site, plain in one["stats"].items()}
            for one in found
            if one is not None
        ]
        if len(scores) == shape.layers:
            return scores, remembered
        if self.criterion.needs_gradient:  # of all layers at once: not kept, they take the model's size twice
            total, squares = gradients(model, windows, reporter)
        stream = Stream(model, windows)
        reporter.stage("scoring layers", float(len(stream.layers)))
        for index, layer in enumerate(stream.layers):
            if index < len(scores):
                stream.advance(index)
                reporter.advance(1)
                continue
            stats = stream.observe(index, self.criterion.gram)
            at = LayerFacts(
                shape,
                matrices(layer),
                stats,
                None if total is None else total[index],
                None if squares is None else squares[index],
            )
            scores.append(self.criterion.score(at))
            for site in _OUT:
                stats[site].gram = None
            remembered.append({site: stats[site] for site in _OUT})
            plain = {site: stats[site].plain() for site in _OUT}
            journal.put(f"scores-{index}", {"scores": [scores[-1].kv, scores[-1].channels], "stats": plain})
            stream.advance(index, reuse=True)
            reporter.advance(1)
        return scores, remembered

    def shape_of(self, model: Any) -> Shape:
        """Return the sizes of a model whose units can go; raises RecipeError for any other."""
        shape = Shape.of(model.config)
        check_dense(shape)
        self.limits.check(shape)
        return shape

    def allocate(
        self,
        model: Any,
        windows: torch.Tensor,
        scores: Sequence[UnitScores],
        sparsity: float,
        shape: Shape,
        reporter: Reporter = SILENT,
    ) -> list[Units]:
        """Return the KV groups and channels of each layer that stay; arguments and errors as for `run`."""
        if self.costs == "latency" and self.latency is not None:
            costs = UnitCosts.of_latency(shape, self.latency)
        else:
            costs = UnitCosts.of(shape, self.costs, windows.shape[1])
        layers = len(scores)
        first, last = self.spared_first, layers - self.spared_last
        if first >= last:
            raise RecipeError(
                f"all {layers} layers are spared: the recipe spares {self.spared_first} at the start and "
                f"{self.spared_last} at the end (`spared` in a recipe of your own)"
            )
        one = costs.layer(shape.kv_heads, shape.intermediate[0])
        target = round(sparsity * layers * one)
        most = sum(most_saved(layer, costs, self.limits) for layer in scores[first:last])
        unit = max(self.limits.channel_step * costs.channel, self.limits.tensor_parallel * costs.group)
        if target > most + unit:
            raise RecipeError(
                f"{sparsity:.0%} of {self.costs} cannot go: what this recipe prunes is at most "
                f"{most / (layers * one):.0%}; ask for less, for another --cost, or loosen the least sizes"
            )
        if isinstance(self.allocation, LayerRatios):
            # what spared layers do not lose, the others lose as well
            inner = target / ((last - first) * one)
            if inner >= 1:
                raise RecipeError(f"{sparsity:.0%} of all layers is more than the layers that are not spared")
            ratios = self.allocation.ratios(model, windows, inner, reporter)[first:last]
            excess = sum(ratios) / len(ratios) - inner
            chosen = by_ratio(scores[first:last], [r - excess for r in ratios], costs, self.limits)
        else:
            chosen = pooled(scores[first:last], target, costs, self.limits, self.allocation)
        return [_whole(s) for s in scores[:first]] + chosen + [_whole(s) for s in scores[last:]]

    def _refit(
        self,
        model: Any,
        windows: torch.Tensor,
        kept: Kept,
        shape: Shape,
        reporter: Reporter,
        journal: Journal,
    ) -> None:
        """Solve for the kept columns with the inputs that the pruned layers before really give."""
        stream = Stream(model, windows)
        reporter.stage("refitting layers", float(len(stream.layers)))
        for index, layer in enumerate(stream.layers):
            finished = journal.get(f"refit-{index}")
            outputs = {name: matrices(layer)[name] for name in ("o_proj", "down_proj")}
            if finished is not None:
                for name, weight in outputs.items():
                    weight.copy_(finished[name])
            # the FFN is refitted to what the refitted attention gives
            for site in _OUT if finished is None else ():
                stats = stream.observe(index, frozenset({site}))
                for weight, key, found, stay in _outputs(layer, kept.layers[index], stats, shape):
                    if (key == "o_bias") == (site == "attention.out"):
                        assert found.gram is not None
                        weight.copy_(refit(weight, found.gram, stay))
            if finished is None:
                journal.put(f"refit-{index}", outputs)
            stream.advance(index)
            reporter.advance(1)


def columns_of(kv_heads: Sequence[int], shape: Shape) -> list[int]:
    """Return the inputs of o_proj that the query heads of KV groups fill."""
    wide = shape.queries_per_kv * shape.head_dim
    return [column for g in kv_heads for column in range(g * wide, (g + 1) * wide)]


def _outputs(
    layer: Any, kept: LayerKept, stats: dict[str, InputStats], shape: Shape
) -> list[tuple[torch.Tensor, str, InputStats, Sequence[int]]]:
    found = matrices(layer)
    return [
        (found["o_proj"], "o_bias", stats["attention.out"], columns_of(kept.kv_heads, shape)),
        (found["down_proj"], "down_bias", stats["mlp.out"], kept.channels),
    ]


def _whole(layer: UnitScores) -> Units:
    return tuple(range(len(layer.kv))), tuple(range(len(layer.channels)))
