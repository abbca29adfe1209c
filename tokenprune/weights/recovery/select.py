"""Which texts to train on: those that pruning hurt most.

After PASER (He et al. 2025, arXiv 2502.12594), which picks 4 to 20 % of the recovery data by how much a
capability degraded. Deviation: windows of text are ranked one by one by the rise of their loss, not
clustered into capabilities first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tokenprune.weights.text import mean_nll

if TYPE_CHECKING:
    import torch


def most_hurt(pruned: Any, dense: Any, windows: torch.Tensor, share: float) -> torch.Tensor:
    """Return the windows whose loss rose most, int64 [at least 1, tokens], in their own order.

    Args:
        pruned: The pruned model.
        dense: The model before.
        windows: int64 [n, tokens].
        share: Of the windows that are taken.
    """
    rise = [mean_nll(pruned, row[None]) - mean_nll(dense, row[None]) for row in windows]
    count = max(1, round(share * len(rise)))
    return windows[sorted(sorted(range(len(rise)), key=lambda i: -rise[i])[:count])]
