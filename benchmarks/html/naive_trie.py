"""Path probabilities by definition (HtmlRAG, arXiv 2411.02959, section 3.4): the reference for a fast scorer.

A trie over the tokens of all paths; at a node with one child its probability is 1, otherwise the softmax over
the logits of the child tokens only; a path's score is the sum of log p along it. One full forward of the
prompt and the prefix per branching node, one at a time, no cache: slow and hard to get wrong.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any


def leaf_log_probabilities(
    model: Any, prompt: Sequence[int], paths: Sequence[Sequence[int]], floor: float = 0.0
) -> list[float]:
    """Return log P(path | prompt) within the trie of all paths, one per path.

    Args:
        model: called with int64 token ids [1, n]; returns an object with ``logits`` [1, n, vocabulary].
        prompt: token ids; at least one.
        paths: token ids of each leaf; one may be a prefix of another, or equal to it.
        floor: smallest probability of a step (the paper's code uses 1e-9); 0 for none.
    """
    import torch

    children: dict[tuple[int, ...], set[int]] = {}
    for path in paths:
        for depth, token in enumerate(path):
            children.setdefault(tuple(path[:depth]), set()).add(token)
    step: dict[tuple[int, ...], float] = {}
    for prefix, tokens in children.items():
        names = sorted(tokens)
        if len(names) == 1:
            step[(*prefix, names[0])] = 0.0
            continue
        with torch.inference_mode():
            logits = model(torch.tensor([[*prompt, *prefix]])).logits[0, -1]
        values = logits.double()[names]
        for token, value in zip(names, torch.log_softmax(values, dim=0).tolist(), strict=True):
            step[(*prefix, token)] = max(value, math.log(floor)) if floor else value
    return [sum(step[tuple(path[: depth + 1])] for depth in range(len(path))) for path in paths]


def branching_nodes(paths: Sequence[Sequence[int]]) -> int:
    """Count the trie's nodes with more than one child: the forwards the reference needs."""
    children: dict[tuple[int, ...], set[int]] = {}
    for path in paths:
        for depth, token in enumerate(path):
            children.setdefault(tuple(path[:depth]), set()).add(token)
    return sum(len(tokens) > 1 for tokens in children.values())
