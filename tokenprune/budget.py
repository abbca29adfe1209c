"""The token budget of one call, and how it is shared among documents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real

import numpy as np

from tokenprune.arrays import FloatArray, IntArray
from tokenprune.errors import BudgetError


@dataclass(frozen=True)
class Budget:
    """How much of all documents together may remain.

    Args:
        max_tokens: upper bound on the tokens of the rendered output, all documents together.
        keep_ratio: the bound as a share (0..1) of the tokens of the originals.

    Neither means adaptive: each pruner's own selector decides. Tokens are those of the pipeline's tokenizer.

    Raises:
        BudgetError: both are given, or one is out of range.
    """

    max_tokens: int | None = None
    keep_ratio: float | None = None

    def __post_init__(self) -> None:
        if self.max_tokens is not None and self.keep_ratio is not None:
            raise BudgetError("give max_tokens or keep_ratio, not both")
        tokens, ratio = self.max_tokens, self.keep_ratio
        if tokens is not None and (
            isinstance(tokens, bool) or not isinstance(tokens, Integral) or tokens < 0
        ):
            raise BudgetError(f"max_tokens must be a whole number, 0 or more, not {tokens!r}")
        if ratio is not None and (
            isinstance(ratio, bool) or not isinstance(ratio, Real) or not 0 <= ratio <= 1
        ):
            raise BudgetError(f"keep_ratio must be a number between 0 and 1, not {ratio!r}")

    @property
    def adaptive(self) -> bool:
        """Whether the pruners decide by themselves."""
        return self.max_tokens is None and self.keep_ratio is None

    def limit(self, tokens_before: int) -> int | None:
        """Return the bound in tokens for originals of ``tokens_before`` tokens; None when adaptive."""
        if self.max_tokens is not None:
            return self.max_tokens
        if self.keep_ratio is not None:
            return int(self.keep_ratio * tokens_before + 1e-9)
        return None


def comparable(scores: Sequence[FloatArray], costs: Sequence[IntArray]) -> list[FloatArray]:
    """Make the scores of different scorers comparable, so that one budget can be shared.

    Cosines and BM25 sums have no common scale. Each group of scores is replaced by the share of its
    group's tokens that rank below: at any cut, each group keeps about the same share of its tokens, and
    within a group the order stays. A single group is returned as it is.

    Args:
        scores: one float64 array per group.
        costs: the token costs of the same units.
    """
    if len(scores) <= 1:
        return list(scores)
    out: list[FloatArray] = []
    for score, cost in zip(scores, costs, strict=True):
        order = np.argsort(score, kind="stable")
        below = np.cumsum(cost[order]) - cost[order]
        share = np.empty(len(score))
        share[order] = below / max(1, int(cost.sum()))
        # Equal scores must stay equal, or the order of the input would decide.
        _, first, inverse = np.unique(score, return_index=True, return_inverse=True)
        lowest = np.full(len(first), np.inf)
        np.minimum.at(lowest, inverse, share)
        out.append(lowest[inverse])
    return out
