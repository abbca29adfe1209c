"""Units with coupled slices: KV groups with their query heads, and FFN channels; their scores and costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, cast, get_args

from tokenprune.errors import RecipeError
from tokenprune.weights.kept import Shape
from tokenprune.weights.latency import Latency
from tokenprune.weights.statistics import InputStats

if TYPE_CHECKING:
    import torch

CostName = Literal["params", "flops", "kv_bytes", "latency"]


@dataclass(frozen=True, slots=True)
class LayerFacts:
    """What is known of one dense layer when its units are scored.

    Attributes:
        shape: Of the model.
        matrices: q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj: float32 [out, in].
        stats: Site name -> statistics of its input.
        gradients: Matrix name -> sum of gradients over samples, or None.
        squares: Matrix name -> sum of squared gradients over samples, or None.
    """

    shape: Shape
    matrices: Mapping[str, torch.Tensor]
    stats: Mapping[str, InputStats]
    gradients: Mapping[str, torch.Tensor] | None = None
    squares: Mapping[str, torch.Tensor] | None = None


@dataclass(frozen=True, slots=True)
class UnitScores:
    """Scores of a layer's units; the lowest go first.

    Attributes:
        kv: float32 [KV groups, parts]: a group is worth the mean of its parts (one, or the inputs of o_proj
            that its query heads fill).
        channels: float32 [channels].
    """

    kv: torch.Tensor
    channels: torch.Tensor

    def without(self, kv_heads: Sequence[int], channels: Sequence[int]) -> UnitScores:
        """Return scores where all units but these went already: they are worth minus infinity."""
        import torch

        gone_kv, gone = (torch.ones(len(x), dtype=torch.bool) for x in (self.kv, self.channels))
        gone_kv[list(kv_heads)] = False
        gone[list(channels)] = False
        lost = -torch.inf
        return UnitScores(self.kv.masked_fill(gone_kv[:, None], lost), self.channels.masked_fill(gone, lost))


class UnitCriterion:
    """Scores units of dense layers."""

    needs_gradient: ClassVar[bool] = False
    gram: ClassVar[frozenset[str]] = frozenset()  # sites whose X X^T is needed
    channels_only: ClassVar[bool] = False  # says nothing about KV groups

    def score(self, at: LayerFacts) -> UnitScores:
        """Return the scores of a layer's units."""
        raise NotImplementedError


def coupled_sum(metric: Mapping[str, torch.Tensor], shape: Shape) -> UnitScores:
    """Sum a metric of single weights over the slices that leave together with a unit.

    Args:
        metric: All seven matrices' names -> [out, in].
        shape: Of the model.
    """
    groups = shape.kv_heads
    rows = [metric[name].sum(1).view(groups, -1).sum(1) for name in ("q_proj", "k_proj", "v_proj")]
    kv = rows[0] + rows[1] + rows[2] + metric["o_proj"].sum(0).view(groups, -1).sum(1)
    channels = metric["gate_proj"].sum(1) + metric["up_proj"].sum(1) + metric["down_proj"].sum(0)
    return UnitScores(kv[:, None], channels)


def by_input(heads: torch.Tensor, channels: torch.Tensor, shape: Shape) -> UnitScores:
    """Make scores of the inputs of o_proj [heads x head_dim] and of down_proj [channels] scores of units."""
    return UnitScores(heads.view(shape.kv_heads, -1), channels)


@dataclass(frozen=True, slots=True)
class UnitCosts:
    """Integer costs; a unit that costs nothing is not pruned.

    Attributes:
        group: Of a KV group with its query heads; the mean where groups differ.
        channel: Of an FFN channel; the mean where channels differ.
        groups: What 0, 1, ... groups of a layer cost in all, where one is not as dear as the other.
        channels: What 0, 1, ... channels of a layer cost in all, likewise.
    """

    group: int
    channel: int
    groups: tuple[int, ...] | None = None
    channels: tuple[int, ...] | None = None

    def saved_groups(self, whole: int, gone: int) -> int:
        """Return what a layer of ``whole`` KV groups saves when some are gone."""
        return gone * self.group if self.groups is None else self.groups[whole] - self.groups[whole - gone]

    def saved_channels(self, whole: int, gone: int) -> int:
        """Return what a layer of ``whole`` channels saves when some are gone."""
        if self.channels is None:
            return gone * self.channel
        return self.channels[whole] - self.channels[whole - gone]

    def layer(self, groups: int, channels: int) -> int:
        """Return what a whole layer costs."""
        if self.groups is None or self.channels is None:
            return groups * self.group + channels * self.channel
        return self.groups[groups] + self.channels[channels]

    @classmethod
    def of_latency(cls, shape: Shape, latency: Latency) -> UnitCosts:
        """Return costs in nanoseconds; raises RecipeError when the table is of other sizes."""
        groups, channels = latency.costs(shape)
        means = [max(1, round((table[-1] - table[0]) / (len(table) - 1))) for table in (groups, channels)]
        return cls(means[0], means[1], groups, channels)

    @classmethod
    def of(cls, shape: Shape, what: CostName = "params", tokens: int = 1024) -> UnitCosts:
        """Return costs in parameters, prefill FLOPs of ``tokens``, or bytes of KV cache a token (16 bit).

        Raises:
            RecipeError: The costs are ``latency``, which has to be measured: `of_latency`.
        """
        if what == "latency":
            raise RecipeError("a cost of latency has to be measured first: give its table")
        if what == "params":
            return cls(shape.kv_group_params, shape.channel_params)
        wide = shape.queries_per_kv * shape.head_dim
        if what == "flops":
            linear = 2 * tokens * shape.hidden * (2 * wide + 2 * shape.head_dim)
            return cls(linear + 2 * wide * tokens * (tokens + 1), 6 * tokens * shape.hidden)
        return cls(4 * shape.head_dim, 0)


@dataclass(frozen=True, slots=True)
class Constraints:
    """What serving needs.

    Attributes:
        tensor_parallel: KV groups and channels of every layer stay divisible by this.
        channel_multiple: Channels stay a multiple of this (before tensor parallelism).
        min_groups: KV groups that stay in every layer at least.
        min_channels: Channels that stay in every layer at least.
    """

    tensor_parallel: int = 1
    channel_multiple: int = 1
    min_groups: int = 1
    min_channels: int = 1

    def check(self, shape: Shape) -> None:
        """Raise RecipeError unless the dense model itself meets them."""
        if min(self.tensor_parallel, self.channel_multiple, self.min_groups, self.min_channels) < 1:
            raise RecipeError("tensor parallelism, multiples and least sizes must be 1 or more")
        if shape.kv_heads % self.tensor_parallel:
            raise RecipeError(
                f"{shape.kv_heads} KV groups do not divide by a tensor parallelism of {self.tensor_parallel}"
            )
        for wide in shape.intermediate:
            if wide % self.channel_step:
                raise RecipeError(f"{wide} FFN channels are no multiple of {self.channel_step}")

    @property
    def channel_step(self) -> int:
        """Channels that leave together."""
        import math

        return math.lcm(self.tensor_parallel, self.channel_multiple)


def check_dense(shape: Shape) -> None:
    """Raise RecipeError when a model has experts: its units are not pruned."""
    if any(shape.experts):
        raise RecipeError(
            "this recipe prunes KV groups and FFN channels of dense layers, the model has experts: take "
            "a recipe for experts, elements or depth"
        )


def cost_name(text: str) -> CostName:
    """Return the cost a word names; raises RecipeError for any other."""
    for name in get_args(CostName):
        if text == name:
            return cast(CostName, name)
    raise RecipeError(f"unknown cost {text!r}; the target can count {', '.join(get_args(CostName))}")
