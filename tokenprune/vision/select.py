"""Selectors of visual tokens: scores, positions or features -> places that stay, int64, ascending.

Of equal scores the earlier place wins, so that the same input gives the same output on every device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch


def best(scores: torch.Tensor, count: int) -> torch.Tensor:
    """The ``count`` highest of float [n] (FoPru's rank strategy)."""
    return scores.sort(descending=True, stable=True).indices[:count].sort().values


def best_lines(scores: torch.Tensor, line: torch.Tensor, count: int) -> torch.Tensor:
    """Whole lines with the highest sums, then the best tokens of the next one (FoPru's row strategy).

    Of lines that differ in length (a picture's and those of its tiles) it is the highest means, or the
    longest would win.

    Args:
        scores: float [n].
        line: int64 [n], the line (row of a frame's grid) of each token.
        count: tokens that stay.
    """
    sums = torch.zeros(int(line.max()) + 1, dtype=torch.float64, device=scores.device)
    sums.index_add_(0, line, scores.double())
    lengths = torch.bincount(line)
    if len(lengths[lengths > 0].unique()) > 1:
        sums /= lengths.clamp(min=1)
    place = torch.empty_like(sums, dtype=torch.int64)
    place[sums.sort(descending=True, stable=True).indices] = torch.arange(len(sums), device=scores.device)
    by_score = scores.sort(descending=True, stable=True).indices
    by_line = place[line[by_score]].sort(stable=True).indices
    return by_score[by_line][:count].sort().values


def even(count: int, n: int) -> torch.Tensor:
    """``count`` of ``n`` places at even distances, half a distance from both ends."""
    return (2 * torch.arange(count) + 1) * n // (2 * count)


def even_grid(grid: tuple[int, int, int], count: int) -> torch.Tensor:
    """``count`` places of a grid (frames, rows, columns) at even distances in all three directions."""
    frames, rows, cols = grid
    chosen = even(min(count, frames), frames)
    shares = even_shares(count, len(chosen))
    places = [
        f * rows * cols + _even_frame(rows, cols, share)
        for f, share in zip(chosen.tolist(), shares, strict=True)
    ]
    return torch.cat(places)


def even_views(views: Sequence[tuple[int, int]], count: int) -> torch.Tensor:
    """``count`` places of views (rows and columns) that follow one another, shared in proportion to size."""
    sizes = torch.tensor([rows * cols for rows, cols in views])
    shares = apportion(count, sizes)
    starts = sizes.cumsum(0) - sizes
    each = zip(views, shares.tolist(), starts.tolist(), strict=True)
    return torch.cat([start + _even_frame(*view, share) for view, share, start in each if share])


def even_shares(count: int, parts: int) -> list[int]:
    """Share ``count`` by ``parts`` so that they differ by 1 at most, the larger ones spread evenly."""
    return [count * (i + 1) // parts - count * i // parts for i in range(parts)]


def _even_frame(rows: int, cols: int, count: int) -> torch.Tensor:
    lines = min(rows, count, max(math.ceil(count / cols), round(math.sqrt(count * rows / cols))))
    chosen = even(lines, rows).tolist()
    return torch.cat(
        [r * cols + even(c, cols) for r, c in zip(chosen, even_shares(count, lines), strict=True)]
    )


def diverse(unit: torch.Tensor, count: int) -> torch.Tensor:
    """The greedy max-min set under cosine distance (DivPrune, equation 3 and algorithm 1).

    It begins with the token whose nearest neighbour is farthest, then takes, again and again, the one that is
    farthest from its nearest taken one. Distances to the nearest taken one are carried along: O(n) a step.

    Args:
        unit: float32 [n, d], rows of unit length.
        count: tokens to take.

    Returns:
        int64 [count], ascending.
    """
    n = len(unit)
    distance = (unit @ unit.T).neg_().add_(1)  # in place: it is all of the method's memory
    chosen = torch.empty(count, dtype=torch.int64, device=unit.device)
    # distance to the nearest other; a single token has none
    nearest = distance.fill_diagonal_(torch.inf).min(dim=0).values
    chosen[0] = nearest.argmax()
    nearest = torch.full((n,), torch.inf, device=unit.device)
    for i in range(1, count):
        taken = chosen[i - 1]
        nearest = torch.minimum(nearest, distance[taken])
        nearest[taken] = -torch.inf  # a duplicate of a taken token must not hide it
        chosen[i] = nearest.argmax()
    return chosen.sort().values


def apportion(count: int, sizes: torch.Tensor) -> torch.Tensor:
    """Share ``count`` by groups in proportion to their sizes, by largest remainders, exactly.

    Args:
        count: at most the sum of the sizes.
        sizes: int64 [g].

    Returns:
        int64 [g], no share above its size.
    """
    total = max(1, int(sizes.sum()))
    shares = sizes * count // total
    rest = count - int(shares.sum())
    first = (sizes * count % total).sort(descending=True, stable=True).indices[:rest]
    shares[first] += 1
    return shares


def best_of_groups(scores: torch.Tensor, group: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """The ``counts[g]`` highest scores of each group g; the groups' numbers ascend along the tokens.

    Args:
        scores: float [n].
        group: int64 [n], ascending.
        counts: int64 [g].
    """
    by_score = scores.sort(descending=True, stable=True).indices
    order = by_score[group[by_score].sort(stable=True).indices]
    sizes = torch.bincount(group, minlength=len(counts))
    start = sizes.cumsum(0) - sizes
    rank = torch.arange(len(scores), device=scores.device) - start[group]
    return order[rank < counts[group]].sort().values
