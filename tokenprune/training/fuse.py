"""A fused rank: few weights, fitted to lists that the network has not seen.

The rank head has some ten thousand weights, and on lists as easy as these a bi-encoder's cosine, which has
none, can rank better. So the rank is a weighted sum of what the head says, the best sentence, late
interaction at three depths and two cosines of question and passage as wholes (`MiniNetwork.columns`): ten
weights, which a few hundred lists determine.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tokenprune.errors import ConfigError
from tokenprune.models.labeler.mini_network import MiniNetwork
from tokenprune.training.rank import RankedList, loss, ranks_of

_ITERATIONS = 100  # of L-BFGS; the loss is nearly convex and it ends earlier


@dataclass(frozen=True)
class FusionRecipe:
    """How the weights are fitted; nothing is drawn.

    Args:
        single: weight of each window's own cross-entropy beside the list's.
        decay: of the squared weights of columns that are brought to one scale.
    """

    single: float = 0.3
    decay: float = 3e-3


def fit_fusion(
    network: MiniNetwork, lists: Sequence[RankedList], recipe: FusionRecipe | None = None
) -> float:
    """Replace the weights of the network's fused rank by ones fitted to the lists; return their loss.

    The new ranks of a list spread as much as the head's do and have their mean, so that they mean about what
    they meant to whoever reads them. For what a `Labeler` keeps they count half (`Labels.keep_rank`).

    Raises:
        ConfigError: there are no lists, or the rank of the network is not fused.
    """
    r = recipe or FusionRecipe()
    if not lists:
        raise ConfigError("a fused rank needs lists with relevant and other passages")
    if network.fuse is None:
        raise ConfigError("the rank of this network is not fused: call add_fusion first")
    device = network.fuse.weight.device
    with torch.no_grad():
        columns = [network.columns(one.found.to(device)).cpu().double() for one in lists]
    everything = torch.cat(columns)
    mean, scale = everything.mean(0), everything.std(0) + 1e-2
    seen = [(one - mean) / scale for one in columns]
    weight = torch.zeros(len(mean), dtype=torch.float64, requires_grad=True)
    bias = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=_ITERATIONS, line_search_fn="strong_wolfe")

    def total() -> Tensor:
        ranks = torch.cat(seen) @ weight + bias
        terms = [
            loss(own, one.relevant, r.single)
            for own, one in zip(ranks.split([len(x) for x in seen]), lists, strict=True)
        ]
        return torch.stack(terms).mean() + r.decay * weight.square().sum()

    def step() -> Tensor:
        optimizer.zero_grad()
        value = total()
        value.backward()
        return value

    optimizer.step(step)
    with torch.no_grad():
        figure = float(total())
        own = weight / scale
        spread = _spread([one[:, 0] for one in columns]) / _spread([one @ own for one in columns])
        own = own * spread
        network.fuse.weight.copy_(own[None])
        network.fuse.bias.copy_(everything[:, 0].mean() - everything.mean(0) @ own)
    return figure


def crossed(
    network: MiniNetwork,
    lists: Sequence[RankedList],
    parts: Sequence[int],
    recipe: FusionRecipe | None = None,
) -> list[Tensor]:
    """Ranks of each list's windows by weights that were fitted to the lists of the other parts.

    Args:
        network: its rank is fused; it stays as it is.
        lists: with what was found in their windows.
        parts: of each list, see `tokenprune.training.lists.parts`.
        recipe: how the weights are fitted.

    Raises:
        ConfigError: all lists are of one part, or the rank of the network is not fused.
    """
    kept = copy.deepcopy(network.fuse)
    out: list[Tensor] = [torch.empty(0)] * len(lists)
    for part in sorted(set(parts)):
        fit_fusion(network, [one for one, own in zip(lists, parts, strict=True) if own != part], recipe)
        held = [n for n, own in enumerate(parts) if own == part]
        for n, ranks in zip(held, ranks_of(network, [lists[n] for n in held]), strict=True):
            out[n] = ranks
    if isinstance(kept, nn.Linear) and network.fuse is not None:
        network.fuse.load_state_dict(kept.state_dict())
    return out


def _spread(ranks: Sequence[Tensor]) -> float:
    """Mean over lists of how far their ranks lie from the list's mean."""
    return float(torch.stack([own.std(correction=0) for own in ranks]).mean().clamp(min=1e-6))
