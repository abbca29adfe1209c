"""The rank head alone, fitted on lists of passages; everything else of the network stays as it is.

Which sentence answers is learned from questions with few passages; which passage of a retrieved list does is
a question of its own, and its head is small. It sees what the frozen network found in each window
(`Labelled.found`), so every window is read once and the head is fitted in seconds.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tokenprune.arrays import IntArray
from tokenprune.errors import ConfigError
from tokenprune.models.labeler.mini import window
from tokenprune.models.labeler.mini_network import MiniNetwork
from tokenprune.training.fit import chunks
from tokenprune.training.sets import Item
from tokenprune.training.windows import WindowMaker, batch

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RankRecipe:
    """How the head is fitted.

    Args:
        epochs: over all lists; the one with the lowest loss on the held lists is taken.
        lists: of a step.
        rate: peak learning rate; it falls to nothing.
        weight_decay: of the head's matrices.
        dropout: of what was found in a window.
        single: weight of each window's own cross-entropy beside the list's.
        seed: of order, start and dropout.
    """

    epochs: int = 16
    lists: int = 16
    rate: float = 2e-3
    weight_decay: float = 0.05
    dropout: float = 0.1
    single: float = 0.3
    seed: int = 0


@dataclass(frozen=True)
class RankedList:
    """What was found in the windows of a question's passages.

    Attributes:
        found: float32 [windows, f], see `Labelled`.
        relevant: bool [windows].
        passage: int64 [windows], which passage a window is of, ascending.
    """

    found: Tensor
    relevant: Tensor
    passage: IntArray


def read(network: MiniNetwork, maker: WindowMaker, items: Iterable[Item]) -> Iterator[RankedList]:
    """Read the passages of questions; those without both kinds of passages are left out."""
    device = next(network.parameters()).device
    network.eval()
    for item in items:
        own = [maker.make(replace(item, passages=(p,))).rows for p in item.passages]
        rows = [row for rows_of in own for row in rows_of]
        relevant = torch.tensor([row.relevant for row in rows], dtype=torch.bool)
        if not relevant.any() or relevant.all():
            continue
        found: list[Tensor] = [torch.empty(0)] * len(rows)
        for numbers in chunks(rows):
            with torch.inference_mode():
                said = network(window(batch([rows[n] for n in numbers], maker.reader.pad), str(device)))
            for n, vector in zip(numbers, said.found.cpu(), strict=True):
                found[n] = vector
        passage = np.repeat(np.arange(len(own)), [len(rows_of) for rows_of in own])
        yield RankedList(torch.stack(found), relevant, passage.astype(np.int64))


def loss(ranks: Tensor, relevant: Tensor, single: float) -> Tensor:
    """Softmax over a list's windows, any relevant one being right, and each window's own cross-entropy."""
    own = F.binary_cross_entropy_with_logits(ranks, relevant.float())
    return single * own - F.log_softmax(ranks, 0)[relevant].logsumexp(0)


def ndcg(network: MiniNetwork, lists: Sequence[RankedList], k: int = 5) -> float:
    """Mean nDCG at ``k`` of the lists by the network's ranks."""
    ranks = ranks_of(network, lists)
    return float(np.mean([ndcg_of(one, own, k) for one, own in zip(lists, ranks, strict=True)]))


def ranks_of(network: MiniNetwork, lists: Sequence[RankedList]) -> list[Tensor]:
    """Return the ranks of each list's windows, float32 [windows]."""
    device = next(network.parameters()).device
    with torch.inference_mode():
        return [network.rank_of(one.found.to(device)).cpu() for one in lists]


def ndcg_of(one: RankedList, ranks: Tensor, k: int = 5) -> float:
    """Return nDCG at ``k`` of a list's passages, each by its best window; binary relevance."""
    first = np.flatnonzero(np.diff(one.passage, prepend=-1))  # windows stand passage by passage
    best = np.maximum.reduceat(ranks.numpy(), first)
    relevant = np.logical_or.reduceat(one.relevant.numpy(), first)
    order = np.argsort(-best, kind="stable")[:k]
    discount = 1 / np.log2(np.arange(2, k + 2))
    gain = float((relevant[order] * discount[: len(order)]).sum())
    return gain / float(discount[: min(k, relevant.sum())].sum())


def fit_rank(
    network: MiniNetwork,
    lists: Sequence[RankedList],
    held: Sequence[RankedList],
    recipe: RankRecipe | None = None,
) -> float:
    """Replace the network's rank head by one fitted to the lists; return its loss on the held ones.

    Raises:
        ConfigError: there are no lists, or none to hold out.
    """
    r = recipe or RankRecipe()
    if not lists or not held:
        raise ConfigError("the rank head needs lists with relevant and other passages, and held ones")
    torch.manual_seed(r.seed)
    rng = np.random.default_rng(r.seed)
    lists, held = ([replace(one, found=network.for_head(one.found)) for one in x] for x in (lists, held))
    everything = torch.cat([one.found for one in lists])
    mean, scale = everything.mean(0), everything.std(0) + 1e-2
    own = copy.deepcopy(network.rank).cpu()
    first, last = own[0], own[-1]
    assert isinstance(first, nn.Linear) and isinstance(last, nn.Linear)
    first.reset_parameters()
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    own.requires_grad_(True).train()
    optimizer = torch.optim.AdamW(own.parameters(), lr=r.rate, weight_decay=r.weight_decay)

    def ranks(one: RankedList, dropout: float = 0.0) -> Tensor:
        seen = F.dropout((one.found - mean) / scale, dropout)
        out: Tensor = own(seen).squeeze(-1) + one.found[:, -1]
        return out

    best, kept = float("inf"), copy.deepcopy(own.state_dict())
    for number in range(r.epochs):
        for group in optimizer.param_groups:
            group["lr"] = r.rate * (1 - number / r.epochs)
        order = rng.permutation(len(lists))
        for step in np.array_split(order, max(1, len(lists) // r.lists)):
            total = torch.stack(
                [loss(ranks(lists[i], r.dropout), lists[i].relevant, r.single) for i in step.tolist()]
            ).mean()
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
        with torch.no_grad():
            figure = float(torch.stack([loss(ranks(one), one.relevant, r.single) for one in held]).mean())
        logger.info("rank: epoch %d, held loss %.4f", number, figure)
        if figure < best:
            best, kept = figure, copy.deepcopy(own.state_dict())
    own.load_state_dict(kept)
    with torch.no_grad():  # the head of the network sees what was found as it is
        first.weight.div_(scale)
        first.bias.sub_(first.weight @ mean)
    network.rank.load_state_dict(own.state_dict())
    return best
