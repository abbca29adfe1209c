"""From scores of tokens to the tokens that stay, beyond the plain best ones: whole units, a share of mass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def count_for_mass(scores: torch.Tensor, pinned: torch.Tensor, mass: float) -> int:
    """Return how many tokens stay when the best free ones shall hold a share ``mass`` of all free scores.

    Args:
        scores: float [n], none below 0.
        pinned: bool [n], these stay anyway and are counted, but their scores are not.
        mass: in (0, 1].
    """
    import torch

    free = scores[~pinned].sort(descending=True).values.double().cumsum(0)
    if not len(free):
        return len(scores)
    needed = int(torch.searchsorted(free, mass * free[-1:])) + 1
    return min(len(scores), int(pinned.sum()) + needed)


def unit_worth(scores: torch.Tensor, unit: torch.Tensor, count: int) -> torch.Tensor:
    """Return what units are worth by their tokens' scores: half of the best and the mean, float [count].

    The best token alone, of scores that are means over neighbours, gives a short unit what stands beside it;
    the mean alone drowns what one clause of a long unit says. A unit without tokens is worth -inf.

    Args:
        scores: float [n].
        unit: int64 [n], the unit that a token belongs to.
        count: units.
    """
    import torch

    none = torch.full((count,), -torch.inf, dtype=scores.dtype, device=scores.device)
    best = none.scatter_reduce(0, unit, scores, "amax")
    return (best + none.scatter_reduce(0, unit, scores, "mean", include_self=False)) / 2


def best_units(scores: torch.Tensor, count: int, pinned: torch.Tensor, starts: Sequence[int]) -> torch.Tensor:
    """Return the tokens of whole units, best unit first, as long as they fit into ``count``; ascending int64.

    A unit is worth what `unit_worth` says of its free tokens. Pinned tokens stay and count; a unit that does
    not fit is passed over for a smaller one. When not even the best unit fits, its best tokens fill the room.

    Args:
        scores: float [n].
        count: tokens to keep at most; pinned ones beyond it stay too.
        pinned: bool [n].
        starts: where units start, ascending; tokens before the first are one more unit.
    """
    import torch

    size = len(scores)
    edges = torch.tensor(sorted({0, *starts}), device=scores.device)
    unit = torch.searchsorted(edges, torch.arange(size, device=scores.device), right=True) - 1
    free = ~pinned
    value = unit_worth(scores[free], unit[free], len(edges))
    cost = torch.bincount(unit[free], minlength=len(edges))
    room = count - int(pinned.sum())
    chosen = torch.zeros(len(edges), dtype=torch.bool)
    costs = cost.tolist()
    for number in value.argsort(descending=True).tolist():
        if 0 < costs[number] <= room:
            chosen[number] = True
            room -= costs[number]
    keep = pinned | chosen.to(scores.device)[unit]
    if room > 0 and not chosen.any():
        best = scores.masked_fill(pinned, -torch.inf).topk(min(room, int(free.sum()))).indices
        keep[best] = True
    return keep.nonzero()[:, 0]
