"""The loss of the sentence labeler: token labels, order of a question's sentences, rank of its passages.

Provence (arXiv 2501.16214, section 3.3) adds a token cross-entropy and a weighted rank loss, the squared
distance to the scores of a reranker. Here ranks are learned from which passages hold evidence, by
cross-entropy, since there is no reranker to follow. Two more terms are ours: sentences of a question are
compared in pairs, since what is kept is decided by their order, and so are its passages in a list (ListNet
with one softmax).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from tokenprune.models.labeler.mini_network import Labelled
from tokenprune.training.windows import UNKNOWN, Question


@dataclass(frozen=True)
class LossWeights:
    """How much each term counts."""

    token: float = 0.7
    pairs: float = 1.0
    rank: float = 0.15
    rank_list: float = 0.3


@dataclass
class Said:
    """What the network said of a step's windows, one entry per window in the questions' order.

    Attributes:
        tokens: keep logits of the sentence tokens of each window, float32 [t].
        sentence: which sentence of its window each belongs to, int64 [t].
        rank: float32 [windows].
    """

    tokens: list[Tensor]
    sentence: list[Tensor]
    rank: Tensor


def collect(labelled: Sequence[tuple[Sequence[int], Labelled, Tensor]], windows: int) -> Said:
    """Put the chunks of a step together: (window numbers, what was said, sentence of each token)."""
    tokens: list[Tensor] = [torch.empty(0)] * windows
    sentence: list[Tensor] = [torch.empty(0)] * windows
    ranks: list[Tensor] = [torch.empty(0)] * windows
    for numbers, said, of in labelled:
        inside = of >= 0
        for i, n in enumerate(numbers):
            tokens[n], sentence[n] = said.token[i][inside[i]], of[i][inside[i]]
            ranks[n] = said.rank[i]
    return Said(tokens, sentence, torch.stack(ranks))


def loss(
    said: Said, questions: Sequence[Question], weights: LossWeights | None = None
) -> tuple[Tensor, dict[str, float]]:
    """Return the loss of a step, a scalar, and its terms before they are weighted.

    Every question counts the same, whatever the number of its windows, but for the weight of its sentence
    labels; a term that a question cannot have (no
    judged sentence, no pair, no passage with evidence) counts nothing.
    """
    w = weights or LossWeights()
    sums = {name: said.rank.new_zeros(()) for name in ("token", "pairs", "rank", "rank_list")}
    at = 0
    for question in questions:
        windows = range(at, at := at + len(question.rows))
        means, marks, token_losses = [], [], []
        for n, row in zip(windows, question.rows, strict=True):
            labels = torch.as_tensor(row.labels, device=said.rank.device)
            token, of = said.tokens[n], said.sentence[n]
            own = labels[of]
            judged = own >= 0
            if judged.any():
                token_losses.append(
                    F.binary_cross_entropy_with_logits(token[judged], own[judged].float(), reduction="none")
                )
            size = torch.bincount(of, minlength=len(labels))
            means.append(token.new_zeros(len(labels)).index_add(0, of, token) / size.clamp(min=1))
            marks.append(labels.masked_fill(size == 0, UNKNOWN))  # without tokens: nothing was said of it
        if token_losses:
            sums["token"] = sums["token"] + question.weight * torch.cat(token_losses).mean()
        logits, labels = torch.cat(means), torch.cat(marks)
        positive, negative = logits[labels == 1], logits[labels == 0]
        if len(positive) and len(negative):
            gaps = F.softplus(negative[None] - positive[:, None])
            sums["pairs"] = sums["pairs"] + question.weight * gaps.mean()
        ranks = said.rank[windows.start : windows.stop]
        relevant = torch.tensor([row.relevant for row in question.rows], device=ranks.device)
        sums["rank"] = sums["rank"] + F.binary_cross_entropy_with_logits(ranks, relevant.float())
        if relevant.any() and not relevant.all():
            sums["rank_list"] = sums["rank_list"] - F.log_softmax(ranks, 0)[relevant].mean()
    terms = {name: value / len(questions) for name, value in sums.items()}
    total = sum((getattr(w, name) * value for name, value in terms.items()), said.rank.new_zeros(()))
    return total, {name: float(value.detach()) for name, value in terms.items()}
