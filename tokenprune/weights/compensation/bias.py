"""FLAP's bias: what the pruned inputs of a matrix put out on average stays (arXiv 2312.11983, eq. 3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tokenprune.weights.statistics import InputStats

if TYPE_CHECKING:
    import torch


def mean_bias(weight: torch.Tensor, inputs: InputStats, gone: Sequence[int]) -> torch.Tensor:
    """Return W_gone E[x_gone], float32 [out]: added to the output it restores its mean exactly.

    Args:
        weight: [out, in].
        inputs: Statistics of the input.
        gone: Columns that are pruned.
    """
    columns = list(gone)
    return weight[:, columns] @ inputs.mean[columns]
