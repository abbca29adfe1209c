"""Which units go: in each layer by its ratio, or from one pool of all layers; costs meet the target."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

from tokenprune.errors import RecipeError
from tokenprune.weights.rounding import Carry
from tokenprune.weights.units import Constraints, UnitCosts, UnitScores

if TYPE_CHECKING:
    import torch

Units = tuple[tuple[int, ...], tuple[int, ...]]  # KV groups and channels that stay
Norm = Literal["none", "mean", "zscore"]


def by_ratio(
    scores: Sequence[UnitScores], ratios: Sequence[float], costs: UnitCosts, limits: Constraints
) -> list[Units]:
    """Take each layer's share: KV groups as near to the ratio as they come, channels for the rest.

    Rounding is carried from layer to layer, so the whole misses the target by at most one smallest unit.

    Args:
        scores: Of each layer.
        ratios: Share of each layer's cost that goes.
        costs: Of units.
        limits: What serving needs.

    Raises:
        RecipeError: The limits do not leave so much to prune.
    """
    groups_open, money = Carry(), Carry()
    gone: list[list[int]] = []  # KV groups and channels of each layer
    group, step = limits.tensor_parallel, limits.channel_step
    unit = step * costs.channel
    again = _groups_again(scores, ratios, costs, limits)
    for index, (layer, ratio) in enumerate(zip(scores, ratios, strict=True)):
        kv, wide = _worth(layer)
        most_groups, most_channels = _most(layer, limits)
        gone_groups = 0
        if again:
            gone_groups = again[index]
        elif costs.group and most_groups:
            groups_open.add(ratio * len(kv) / group)
            steps = min(max(round(groups_open.open), 0), most_groups // group)
            gone_groups = groups_open.give(steps) * group
        money.add(ratio * costs.layer(len(kv), len(wide)))
        money.give(costs.saved_groups(len(kv), gone_groups))
        steps = 0
        if unit:
            steps = _steps(money.open, len(wide), step, costs)
            steps = min(max(steps, _lost(wide) // step), most_channels // step)
        money.give(costs.saved_channels(len(wide), steps * step))
        gone.append([gone_groups, steps * step])
    for layer, at in zip(scores, gone, strict=True):  # what the last layers could not take or give back
        wide = len(layer.channels)
        least, most = _lost(layer.channels) // step, _most(layer, limits)[1] // step
        before = costs.saved_channels(wide, at[1])
        steps = _steps(money.open + before, wide, step, costs) if unit else 0
        at[1] = min(max(steps, least), most) * step
        money.give(costs.saved_channels(wide, at[1]) - before)
    smallest = max(unit, _dearest(scores, step, costs)) or group * costs.group
    if abs(money.open) > smallest:
        raise RecipeError(
            f"the target cannot be met: {money.open:+.0f} of cost is left over, a unit is {smallest}; ask "
            "for less, or loosen the least sizes and multiples"
        )
    return [
        (_stay(_worth(layer)[0], groups), _stay(_worth(layer)[1], channels))
        for layer, (groups, channels) in zip(scores, gone, strict=True)
    ]


def _steps(amount: float, wide: int, step: int, costs: UnitCosts) -> int:
    """Return how many steps of channels save ``amount`` most nearly."""
    if costs.channels is None:
        return round(amount / (step * costs.channel))
    most = wide // step
    saved = [costs.saved_channels(wide, count * step) for count in range(most + 1)]
    after = min(bisect_left(saved, amount), most)
    return after if after == 0 or saved[after] - amount <= amount - saved[after - 1] else after - 1


def _dearest(scores: Sequence[UnitScores], step: int, costs: UnitCosts) -> int:
    """Return what the dearest step of channels costs, where steps differ."""
    if costs.channels is None:
        return 0
    wide = len(scores[0].channels)
    saved = [costs.saved_channels(wide, gone) for gone in range(0, wide + 1, step)]
    return max((b - a for a, b in pairwise(saved)), default=0)


def _groups_again(
    scores: Sequence[UnitScores], ratios: Sequence[float], costs: UnitCosts, limits: Constraints
) -> list[int]:
    """Return the KV groups of each layer that are gone after a further round; nothing in a first round.

    Where units went before, a group may cost more than a round takes in all. So groups go only while they are
    affordable, from the layer that is furthest behind its ratio.
    """
    worth = [_worth(layer) for layer in scores]
    gone = [_lost(kv) for kv, _ in worth]
    lost = [_lost(wide) for _, wide in worth]
    if not any(gone) and not any(lost):
        return []
    whole = [costs.layer(len(kv), len(wide)) for kv, wide in worth]
    left = sum(r * w for r, w in zip(ratios, whole, strict=True))
    for (kv, wide), g, c in zip(worth, gone, lost, strict=True):
        left -= costs.saved_groups(len(kv), g) + costs.saved_channels(len(wide), c)
    step = limits.tensor_parallel
    while costs.group and left >= step * costs.group:
        behind = [
            r * len(kv) - g if g + step <= _most(layer, limits)[0] else -1.0
            for r, (kv, _), g, layer in zip(ratios, worth, gone, scores, strict=True)
        ]
        at = max(range(len(gone)), key=behind.__getitem__)
        if behind[at] < step / 2:
            break
        gone[at] += step
        left -= step * costs.group
    return gone


def most_saved(layer: UnitScores, costs: UnitCosts, limits: Constraints) -> float:
    """Return the cost of all units of a layer that may go."""
    groups, channels = _most(layer, limits)
    groups -= groups % limits.tensor_parallel
    channels -= channels % limits.channel_step
    return costs.saved_groups(len(layer.kv), groups) + costs.saved_channels(len(layer.channels), channels)


def pooled(
    scores: Sequence[UnitScores], target: int, costs: UnitCosts, limits: Constraints, norm: Norm
) -> list[Units]:
    """Take units of all layers from one pool, the lowest first, until their cost meets ``target``.

    Channels come in steps that serving can use, the lowest of a layer together, worth their mean.

    Args:
        scores: Of each layer.
        target: Cost that goes.
        costs: Of units.
        limits: What serving needs.
        norm: How scores of layers and kinds are made comparable: not at all, by the mean of each kind in
            its layer, or to mean 0 and deviation 1 (FLAP, arXiv 2312.11983, section 3.3).

    Raises:
        RecipeError: The limits do not leave so much to prune.
    """
    atoms: list[tuple[float, int, int, int, int]] = []  # score, layer, kind, cost, units
    for index, layer in enumerate(scores):
        kv, wide = _worth(_normal(layer, norm))
        for kind, (worth, most, step, cost) in enumerate(
            (
                (kv, _most(layer, limits)[0], limits.tensor_parallel, costs.group),
                (wide, _most(layer, limits)[1], limits.channel_step, costs.channel),
            )
        ):
            ascending = worth.sort().values
            for first in range(0, most // step * step if cost else 0, step):
                score = float(ascending[first : first + step].mean())
                atoms.append((score, index, kind, cost * step, step))
    gone = [[0, 0] for _ in scores]
    left = target
    smallest = min((cost for *_, cost, _ in atoms), default=0)
    for _, index, kind, _, step in sorted(atoms):
        at, layer = gone[index][kind], scores[index]
        if kind == 0:
            whole = len(layer.kv)
            cost = costs.saved_groups(whole, at + step) - costs.saved_groups(whole, at)
        else:
            whole = len(layer.channels)
            cost = costs.saved_channels(whole, at + step) - costs.saved_channels(whole, at)
            smallest = max(smallest, cost)
        if cost <= left:
            gone[index][kind] += step
            left -= cost
    if left > smallest:
        raise RecipeError(
            f"the target cannot be met: of the cost of {target} that should go, {left} cannot, as every "
            "layer is at its least size; ask for less, or loosen the least sizes"
        )
    return [
        (_stay(_worth(layer)[0], groups), _stay(_worth(layer)[1], channels))
        for layer, (groups, channels) in zip(scores, gone, strict=True)
    ]


def _worth(layer: UnitScores) -> tuple[torch.Tensor, torch.Tensor]:
    return layer.kv.mean(1), layer.channels


def _lost(worth: torch.Tensor) -> int:
    """Units that went in an earlier round."""
    return int(worth.isneginf().sum())


def _most(layer: UnitScores, limits: Constraints) -> tuple[int, int]:
    """Units of each kind that may go; groups worth infinity are not for sale."""
    for_sale = not bool(layer.kv.isposinf().any())
    return (
        max(len(layer.kv) - limits.min_groups, 0) if for_sale else 0,
        max(len(layer.channels) - limits.min_channels, 0),
    )


def _normal(layer: UnitScores, norm: Norm) -> UnitScores:
    return UnitScores(_scaled(layer.kv, norm), _scaled(layer.channels, norm))


def _scaled(worth: torch.Tensor, norm: Norm) -> torch.Tensor:
    """Scale scores by those of units that are still there; infinite ones stay so."""
    there = worth[worth.isfinite()]
    if norm == "none" or not there.numel():
        return worth
    if norm == "mean":
        return worth / there.mean().clamp_min(1e-30)
    spread = there.std() if there.numel() > 1 else there.new_zeros(())
    # one unit, or units that are all alike: neither better nor worse than the mean
    return (worth - there.mean()) / (spread if float(spread) > 0 else 1.0)


def _stay(worth: torch.Tensor, gone: int) -> tuple[int, ...]:
    return tuple(sorted(worth.sort(stable=True).indices[gone:].tolist()))
