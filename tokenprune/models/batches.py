"""Batches of texts of like length: almost no padding is computed, short texts travel in large batches."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from tokenprune.arrays import IntArray

# Measured on 2 cores, MiniLM-L6 on documentation sentences, tokens/s in bfloat16 with batches of 512 / 1024 /
# 2048 / 4096 padded tokens: 9225 / 8795 / 8128 / 6522. Large activations cost page faults on a CPU; a GPU
# wants them large.
PADDED_TOKENS_CPU = 1024
PADDED_TOKENS_GPU = 65536
# Of a batch that one thread of a CPU reads alone: some for each core of what is read of twenty passages; a
# thread is no slower with it than with 1,024.
PADDED_TOKENS_LONE = 512
# Texts tokenised in one call; bounds the memory that token ids of a very large page take.
TOKENISE_AT_ONCE = 4096


def padded_tokens(device: str) -> int:
    """Return how many padded tokens a batch on a torch device may hold."""
    return PADDED_TOKENS_CPU if device.startswith("cpu") else PADDED_TOKENS_GPU


def by_length(lengths: IntArray, budget: int) -> Iterator[IntArray]:
    """Yield batches of rows, int64, from the longest to the shortest.

    Args:
        lengths: int64 [n], tokens of each row.
        budget: most tokens of a batch, padding included; a longer row is a batch by itself.
    """
    order = np.argsort(-lengths, kind="stable")
    for begin, end in pairwise(_edges(lengths[order], budget)):
        yield order[begin:end]


def _edges(lengths: IntArray, budget: int) -> Iterator[int]:
    start = 0
    yield 0
    while start < len(lengths):
        start = min(len(lengths), start + max(1, budget // max(1, int(lengths[start]))))
        yield start
