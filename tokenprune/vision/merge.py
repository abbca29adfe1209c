"""From places that stay to rows the language model reads: tokens as they are, or means of several."""

from __future__ import annotations

import torch

from tokenprune.vision.tokens import Reduced, VisualTokens


def select(tokens: VisualTokens, keep: torch.Tensor, scores: torch.Tensor | None = None) -> Reduced:
    """Keep tokens as they are and drop the others.

    Args:
        tokens: n tokens.
        keep: int64 [m], ascending.
        scores: float [n], for receipts and pictures.
    """
    into = torch.full((len(tokens),), -1, dtype=torch.int64, device=keep.device)
    into[keep] = torch.arange(len(keep), device=keep.device)
    return Reduced(tokens.features[keep], keep, into, scores)


def average(
    tokens: VisualTokens, keep: torch.Tensor, into: torch.Tensor, scores: torch.Tensor | None = None
) -> Reduced:
    """Make each row the mean of the tokens that went into it.

    Args:
        tokens: n tokens.
        keep: int64 [m], ascending.
        into: int64 [n], row of each token, -1: dropped; every row has at least one.
        scores: float [n].
    """
    return Reduced(means(tokens.features, into, len(keep)), keep, into, scores)


def means(features: torch.Tensor, into: torch.Tensor, rows: int) -> torch.Tensor:
    """Mean of the features of each group, [rows, d] in the number format given; summed in float32."""
    taken = into >= 0
    group = into[taken]
    sums = torch.zeros(rows, features.shape[1], dtype=torch.float32, device=features.device)
    sums.index_add_(0, group, features[taken].float())
    counts = torch.bincount(group, minlength=rows).clamp(min=1)
    return (sums / counts[:, None]).to(features.dtype)


def most_similar(unit: torch.Tensor, targets: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """For each other, which target has the highest cosine (VisionZip's contextual merging).

    Args:
        unit: float32 [n, k], rows of unit length.
        targets: int64 [t], places.
        others: int64 [o], places.

    Returns:
        int64 [o], numbers of targets.
    """
    return (unit[others] @ unit[targets].T).argmax(dim=1)


def weighted_neighbours(
    tokens: VisualTokens, keep: torch.Tensor, unit: torch.Tensor, weights: torch.Tensor, neighbours: int
) -> Reduced:
    """Add to each kept token its nearest others, weighted by their attention (PruMerge, section 3.3).

    A row becomes (x + sum of a_j x_j) / (1 + sum of a_j) over the nearest other tokens j, kept ones included.

    Args:
        tokens: n tokens.
        keep: int64 [m], ascending.
        unit: float32 [n, k], keys of unit length.
        weights: float32 [n], 0 or more; also the scores.
        neighbours: tokens added to each row, at most.

    Returns:
        Rows; a token that several rows took in is counted to the one whose key is nearest.
    """
    n, m = len(tokens), len(keep)
    similar = unit[keep] @ unit.T
    similar[torch.arange(m, device=keep.device), keep] = -torch.inf
    near = similar.topk(min(neighbours, n - 1), dim=1)
    weight = torch.zeros_like(similar).scatter_(1, near.indices, weights[near.indices])
    weight[torch.arange(m, device=keep.device), keep] = 1
    rows = weight @ tokens.features.float() / weight.sum(dim=1, keepdim=True)
    taken = torch.full_like(similar, -torch.inf).scatter_(1, near.indices, near.values)
    closest = taken.max(dim=0)
    into = torch.where(closest.values > -torch.inf, closest.indices, -1)
    into[keep] = torch.arange(m, device=keep.device)
    return Reduced(rows.to(tokens.features.dtype), keep, into, weights)


def density_peaks(features: torch.Tensor, count: int, neighbours: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Cluster by density peaks over k nearest neighbours (DPC-KNN), as HoliTom uses it.

    Distances are Euclidean by the square root of the size; density is exp(-mean of the squared distances to
    the k nearest, the token itself among them); a centre is dense and far from all that are denser.

    Args:
        features: float32 [n, d].
        count: centres, 1 to n.
        neighbours: k; at most ``count`` of them are used, as published.

    Returns:
        Centres, int64 [count], ascending; and for each token the number of its centre, int64 [n].
    """
    n = len(features)
    distance = torch.cdist(features, features) / features.shape[1] ** 0.5
    distance = torch.minimum(distance, distance.T).fill_diagonal_(0)  # rounding must not tell equals apart
    near = distance.topk(min(neighbours, count), dim=1, largest=False).values
    density = (-(near**2).mean(dim=1)).exp()
    # of equal densities the earlier token counts as denser, where the published code adds random noise
    order = density.sort(descending=True, stable=True).indices
    rank = torch.empty(n, dtype=torch.int64, device=features.device)
    rank[order] = torch.arange(n, device=features.device)
    denser = rank[None, :] < rank[:, None]
    gap = torch.where(denser, distance, distance.max()).min(dim=1).values
    centres = (gap * density).sort(descending=True, stable=True).indices[:count].sort().values
    cluster = distance[:, centres].argmin(dim=1)
    cluster[centres] = torch.arange(count, device=features.device)
    return centres, cluster


def blend(features: torch.Tensor, centres: torch.Tensor, cluster: torch.Tensor, beta: float) -> torch.Tensor:
    """Blend: beta * centre + (1 - beta) * mean of the cluster's other members; a lonely centre as it is.

    Args:
        features: float32 [n, d].
        centres: int64 [c], places.
        cluster: int64 [n], number of each token's centre.
        beta: weight of the centre.

    Returns:
        float32 [c, d].
    """
    others = cluster.clone()
    others[centres] = -1
    alone = torch.bincount(cluster, minlength=len(centres)) == 1
    merged = beta * features[centres] + (1 - beta) * means(features, others, len(centres))
    return torch.where(alone[:, None], features[centres], merged)
