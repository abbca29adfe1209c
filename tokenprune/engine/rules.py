"""Score rules: how much the queries of a window look at each token, from queries and keys of one layer.

Queries see all keys, also those behind them: a question that stands before its context still scores it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from tokenprune.errors import ConfigError

if TYPE_CHECKING:
    import torch


class ScoreRule(Protocol):
    """Scores tokens; more is better."""

    def score(self, query: torch.Tensor, keys: torch.Tensor, scale: float) -> torch.Tensor:
        """Return float32 [n] for queries [H, w, d] and keys [G, n, d], both rotated; H is a multiple of G."""
        ...


@dataclass(frozen=True, slots=True)
class DotProduct:
    """Raw q.k: sum over query heads, mean over the window; no softmax, no scale (GemFilter, Algorithm 1)."""

    def score(self, query: torch.Tensor, keys: torch.Tensor, scale: float) -> torch.Tensor:
        """Return float32 [n]; the sum over heads that share a key is taken before the product."""
        import torch

        heads, _, head_dim = query.shape
        total = query.float().mean(1).view(len(keys), heads // len(keys), head_dim).sum(1)
        return torch.einsum("gnd,gd->n", keys.float(), total)


@dataclass(frozen=True, slots=True)
class AttentionProbability:
    """Attention probability, mean over heads and window (LazyLLM, equation 1; SnapKV and others)."""

    def score(self, query: torch.Tensor, keys: torch.Tensor, scale: float) -> torch.Tensor:
        """Return float32 [n]; sums to 1."""
        import torch

        heads, rows, head_dim = query.shape
        grouped = query.float().reshape(len(keys), -1, head_dim) * scale
        total = torch.zeros(keys.shape[1], device=keys.device)
        for own, key in zip(grouped, keys.float(), strict=True):
            total += torch.softmax(own @ key.t(), -1).sum(0)
        return total.div_(heads * rows)


@dataclass(frozen=True, slots=True)
class Pooled:
    """Another rule's scores, each the mean with its neighbours; zeros beyond the ends (GemFilter's code).

    Attributes:
        rule: Scores the tokens.
        kernel: Tokens of a mean, odd; 1 leaves the scores as they are.
    """

    rule: ScoreRule
    kernel: int

    def __post_init__(self) -> None:
        """Check the kernel.

        Raises:
            ConfigError: Even, or below 1.
        """
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise ConfigError(f"a pooling kernel is an odd number from 1, not {self.kernel}")

    def score(self, query: torch.Tensor, keys: torch.Tensor, scale: float) -> torch.Tensor:
        """Return float32 [n]."""
        from torch.nn.functional import avg_pool1d

        scores = self.rule.score(query, keys, scale)
        return avg_pool1d(scores[None], self.kernel, stride=1, padding=self.kernel // 2)[0]
