"""What pruning a log of requests would save: tokens, seconds of prefill, money; by kind and in total."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

Prefill = Callable[[int, int], float]  # prompt tokens, of them cached -> seconds


@dataclass(frozen=True)
class Prices:
    """US dollars for a million prompt tokens.

    Attributes:
        fresh: that the engine computes.
        cached: that it finds in its prefix cache; None: the same.
    """

    fresh: float
    cached: float | None = None

    def cost(self, tokens: int, cached: int) -> float:
        """Return the dollars of one prompt."""
        cheap = self.fresh if self.cached is None else self.cached
        return ((tokens - cached) * self.fresh + cached * cheap) / 1e6


@dataclass(frozen=True)
class Prompt:
    """One prompt: its tokens, and how many of them a prefix cache would hold."""

    tokens: int
    cached: int = 0


@dataclass
class Side:
    """Sums over prompts, as they came or as they would go."""

    tokens: int = 0
    cached: int = 0
    prefill_seconds: float | None = None
    usd: float | None = None

    def add(self, prompt: Prompt, prefill: Prefill | None, prices: Prices | None) -> None:
        """Add a prompt."""
        self.tokens += prompt.tokens
        self.cached += prompt.cached
        if prefill is not None:
            self.prefill_seconds = (self.prefill_seconds or 0.0) + prefill(prompt.tokens, prompt.cached)
        if prices is not None:
            self.usd = (self.usd or 0.0) + prices.cost(prompt.tokens, prompt.cached)


@dataclass
class Sums:
    """What one kind of request sums up to."""

    requests: int = 0
    before: Side = field(default_factory=Side)
    after: Side = field(default_factory=Side)
    prune_seconds: float = 0.0
    decisions: Counter[str] = field(default_factory=Counter)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able mapping with the differences; what was not asked for is None."""
        before, after = self.before, self.after
        seconds = _less(before.prefill_seconds, after.prefill_seconds)
        return {
            "requests": self.requests,
            "decisions": dict(self.decisions.most_common()),
            "before": asdict(before),
            "after": asdict(after),
            "prune_seconds": self.prune_seconds,
            "saved_tokens": before.tokens - after.tokens,
            "saved_share": (before.tokens - after.tokens) / before.tokens if before.tokens else 0.0,
            "cached_tokens_lost": before.cached - after.cached,
            "saved_prefill_seconds": seconds,
            "saved_seconds_net": None if seconds is None else seconds - self.prune_seconds,
            "saved_usd": _less(before.usd, after.usd),
        }


def _less(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b


class Ledger:
    """Sums by kind, filled one request after the other; its size does not grow with the log."""

    def __init__(self, prefill: Prefill | None = None, prices: Prices | None = None) -> None:
        """Count seconds and money where the rates are known."""
        self._prefill, self._prices = prefill, prices
        self.kinds: dict[str, Sums] = {}
        self.total = Sums()

    def add(self, kind: str, before: Prompt, after: Prompt, decision: str, prune_seconds: float) -> None:
        """Add a request: its prompt as it came and as it would go."""
        for sums in (self.kinds.setdefault(kind, Sums()), self.total):
            sums.requests += 1
            sums.before.add(before, self._prefill, self._prices)
            sums.after.add(after, self._prefill, self._prices)
            sums.prune_seconds += prune_seconds
            sums.decisions[decision] += 1

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able mapping."""
        return {
            "kinds": {kind: sums.to_dict() for kind, sums in sorted(self.kinds.items())},
            "total": self.total.to_dict(),
        }
