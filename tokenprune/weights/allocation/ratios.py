"""Layer importances to layer ratios."""

from __future__ import annotations

from collections.abc import Sequence


def spread(importance: Sequence[float], sparsity: float, width: float, costs: Sequence[int]) -> list[float]:
    """Give important layers less sparsity: ratios within ``width`` around a mean of ``sparsity``.

    The ratio falls linearly with the importance, from most to least ``width`` apart (as OWL maps it, arXiv
    2310.05175, section 4); where a ratio would leave [0, 1] the width shrinks, so the cost still adds up.

    Args:
        importance: Of each layer.
        sparsity: Share of the whole cost that goes.
        width: Difference of the largest and the least ratio.
        costs: Of each layer, to weight the mean.
    """
    low, high = min(importance), max(importance)
    if high <= low:
        return [sparsity] * len(importance)
    scaled = [(value - low) / (high - low) for value in importance]
    mean = sum(s * c for s, c in zip(scaled, costs, strict=True)) / sum(costs)
    width = min(
        width, sparsity / (1 - mean) if mean < 1 else width, (1 - sparsity) / mean if mean > 0 else width
    )
    return [sparsity - width * (s - mean) for s in scaled]
