"""Score rules: how much the queries of a window look at each token, from queries and keys of one layer.

Queries see all keys, also those behind them: a question that stands before its context still scores it.
"""

from __future__ import annotations

from collections.abc import Iterator
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


def head_probability(
    query: torch.Tensor, keys: torch.Tensor, scale: float, peak: bool = False
) -> torch.Tensor:
    """Return the attention probability of each query head, mean over the window, float32 [H, n].

    Args:
        query: [H, w, d], rotated, H a multiple of G.
        keys: [G, n, d], rotated.
        scale: of the logits.
        peak: the largest of the window instead of the mean.
    """
    import torch

    every = _probabilities(query, keys, scale)
    return torch.cat([found.amax(1) if peak else found.mean(1) for found in every])


def mean_and_peak(query: torch.Tensor, keys: torch.Tensor, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return :func:`head_probability` without and with ``peak``, for one softmax."""
    import torch

    both = [(found.mean(1), found.amax(1)) for found in _probabilities(query, keys, scale)]
    mean, peak = zip(*both, strict=True)
    return torch.cat(mean), torch.cat(peak)


def _probabilities(query: torch.Tensor, keys: torch.Tensor, scale: float) -> Iterator[torch.Tensor]:
    """Yield [heads of a key, w, n], key by key: all at once would be as large as the attention matrix."""
    import torch

    heads, rows, head_dim = query.shape
    shared = heads // len(keys)
    grouped = query.float().reshape(len(keys), shared * rows, head_dim) * scale
    for own, key in zip(grouped, keys, strict=True):
        yield torch.softmax(own @ key.float().t(), -1).view(shared, rows, -1)


@dataclass(frozen=True, slots=True)
class AttentionProbability:
    """Attention probability, mean over heads and window (LazyLLM, equation 1; SnapKV and others).

    Attributes:
        heads: Query heads that count, from 0; None: all. Few heads of a model retrieve (arXiv 2404.15574),
            and a mean over the others hides what they say.
        peak: What the query of the window says that looks most, instead of their mean: of a question one or
            two words find the answer, and the others look elsewhere (SpecPrefill, arXiv 2502.02789, takes the
            maximum over layers and heads).
    """

    heads: tuple[int, ...] | None = None
    peak: bool = False

    def __post_init__(self) -> None:
        """Check the heads.

        Raises:
            ConfigError: None is named, one below 0, or one twice.
        """
        heads = self.heads
        if heads is not None and (not heads or min(heads) < 0 or len(set(heads)) < len(heads)):
            raise ConfigError(f"heads must be different numbers from 0, at least one, not {heads}")

    def score(self, query: torch.Tensor, keys: torch.Tensor, scale: float) -> torch.Tensor:
        """Return float32 [n]; sums to 1, with ``peak`` to 1 or more.

        Raises:
            ConfigError: The model has no such head.
        """
        if self.heads is None:
            return head_probability(query, keys, scale, self.peak).mean(0)
        total, chosen = query.shape[0], list(self.heads)
        if max(chosen) >= total:
            raise ConfigError(f"the model has query heads 0 to {total - 1}, not {max(chosen)}")
        owners = [head * len(keys) // total for head in chosen]
        return head_probability(query[chosen], keys[owners], scale, self.peak).mean(0)


def relative(scores: torch.Tensor, around: int) -> torch.Tensor:
    """Return scores [c, n], each over the mean of ``around`` (odd) tokens about it; scores are 0 or more.

    Attention favours what is near to the question and the beginning, whatever stands there: this takes it
    out. Half of the mean of all is added below, so that a token among ones that nobody looks at is no find.
    """
    from torch.nn.functional import avg_pool1d

    base = avg_pool1d(scores, around, stride=1, padding=around // 2, count_include_pad=False)
    return scores / (base + 0.5 * scores.mean(1, keepdim=True) + 1e-30)


@dataclass(frozen=True, slots=True)
class Relative:
    """Another rule's scores over the mean about them; see :func:`relative`.

    Attributes:
        rule: Scores the tokens; 0 or more.
        around: Tokens of the mean, odd.
    """

    rule: ScoreRule
    around: int = 129

    def __post_init__(self) -> None:
        """Check the width.

        Raises:
            ConfigError: Even, or below 3.
        """
        if self.around < 3 or self.around % 2 == 0:
            raise ConfigError(f"a mean about a token is over an odd number from 3, not {self.around}")

    def score(self, query: torch.Tensor, keys: torch.Tensor, scale: float) -> torch.Tensor:
        """Return float32 [n]; 1 is a token like those about it."""
        return relative(self.rule.score(query, keys, scale)[None], self.around)[0]


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


@dataclass(frozen=True, slots=True)
class Look:
    """A layer whose queries and keys score the tokens of a prompt.

    Attributes:
        layer: Its number, from 1.
        rule: How it scores.
        share: What its scores weigh where several layers are added up.
    """

    layer: int
    rule: ScoreRule
    share: float = 1.0
