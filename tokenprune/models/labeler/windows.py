"""Passages longer than a model's window: where they are cut, and how the parts are put together again."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tokenprune.arrays import Float32Array, IntArray

# Share of a window that the next one may read again, so that a sentence near the edge has its context once.
OVERLAP = 0.125


def cut(tokens: int, breaks: IntArray, room: int) -> list[tuple[int, int]]:
    """Cut a passage into windows.

    A window ends at the last break that fits. The next one begins at the earliest break within the last
    ``OVERLAP`` of the room, unless the sentence that follows would then not fit. A stretch between two breaks
    that is longer than the room is cut where the window is full; there the whole overlap is read again.

    Args:
        tokens: of the passage.
        breaks: int64, ascending token numbers where it may be cut.
        room: tokens of the passage that a window holds, 1 or more.

    Returns:
        ``(first, behind the last)`` token of each window, ascending; together they cover the passage.
    """
    if tokens <= room:
        return [(0, tokens)] if tokens else []
    edges = np.unique(np.concatenate((breaks[(breaks > 0) & (breaks < tokens)], [0, tokens])))
    overlap = min(int(OVERLAP * room), room - 1)
    windows: list[tuple[int, int]] = []
    start = 0
    while start + room < tokens:
        at = int(np.searchsorted(edges, start + room, side="right"))
        end, following = int(edges[at - 1]), int(edges[at])
        if end > start and following - end <= room:
            windows.append((start, end))
            lowest = max(end - overlap, following - room, start + 1)
            start = int(edges[np.searchsorted(edges, lowest)])
        else:
            end = start + room
            windows.append((start, end))
            start = max(end - overlap, start + 1)
    return [*windows, (start, tokens)]


def merge(
    tokens: int, windows: Sequence[tuple[int, int]], keep: Sequence[Float32Array], ranks: Float32Array
) -> tuple[Float32Array, Float32Array]:
    """Put windows together: a token that several have read gets the mean of its probabilities.

    A rank score is the maximum over the windows, as in OpenProvence: one part that answers is enough.

    Args:
        tokens: of the passage.
        windows: first token and the one behind the last of each.
        keep: float32 [tokens of the window] of each.
        ranks: float32 [windows, r], a column for each kind of rank.

    Returns:
        Rank scores, float32 [r] (NaN without windows), and keep probabilities, float32 [tokens].
    """
    if len(windows) == 1:
        return ranks[0], keep[0]
    total = np.zeros(tokens, dtype=np.float32)
    count = np.zeros(tokens, dtype=np.float32)
    for (start, end), part in zip(windows, keep, strict=True):
        total[start:end] += part
        count[start:end] += 1
    best = ranks.max(axis=0) if len(ranks) else np.full(ranks.shape[1], np.nan, dtype=np.float32)
    return best, total / np.maximum(count, 1)
