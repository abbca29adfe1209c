"""What may happen to the rows of a prompt between two layers: strategies are small objects of these kinds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Protocol

import numpy as np

from tokenprune.arrays import BoolArray
from tokenprune.engine.rules import AttentionProbability, ScoreRule
from tokenprune.errors import ConfigError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Marks:
    """What is special in a prompt, as positions of its tokens.

    Attributes:
        window: Tokens whose queries score the others: the question. Empty: the last token.
        pinned: Tokens that always stay. The last token and the window stay anyway.
        units: Where sentences (or other units) start, ascending; empty: not known.
    """

    window: tuple[int, ...] = ()
    pinned: tuple[int, ...] = ()
    units: tuple[int, ...] = ()

    def check(self, count: int) -> None:
        """Compare with a prompt of ``count`` tokens.

        Raises:
            ConfigError: A position outside the prompt, or units that do not ascend.
        """
        for name in ("window", "pinned", "units"):
            wrong = [p for p in getattr(self, name) if not 0 <= p < count]
            if wrong:
                raise ConfigError(f"{name} names position {wrong[0]}; the prompt has 0 to {count - 1}")
        if any(b <= a for a, b in pairwise(self.units)):
            raise ConfigError("units must ascend: they say where sentences start, one after the other")

    def rows(self, first: int, count: int) -> tuple[BoolArray, BoolArray]:
        """Return for ``count`` tokens from position ``first``: in the window, and pinned; bool [count]."""
        window, pinned = np.zeros(count, dtype=bool), np.zeros(count, dtype=bool)
        for mask, positions in ((window, self.window), (pinned, self.pinned)):
            at = np.asarray(positions, dtype=np.int64) - first
            mask[at[(at >= 0) & (at < count)]] = True
        if not window.any():
            window[-1] = True
        pinned |= window
        pinned[-1] = True
        return window, pinned


@dataclass(frozen=True, slots=True)
class LayerView:
    """One sequence behind a layer, before the next one.

    Attributes:
        layer: Number of the layer that ran, from 0.
        depth: Layers of the model.
        hidden: [n, hidden], output of the layer.
        query: [H, n, d], its rotated queries.
        keys: [G, m, d], its rotated keys; the last n belong to the rows.
        positions: int64 [n], ascending.
        window: bool [n], rows whose queries count.
        pinned: bool [n], rows that must stay.
        scale: Of the attention logits.
        visual: bool [n], visual tokens; None: there are none.
        places: int64 [n, 3], picture, row and column of each visual token, -1 for text; None: not known.
    """

    layer: int
    depth: int
    hidden: torch.Tensor
    query: torch.Tensor
    keys: torch.Tensor
    positions: torch.Tensor
    window: torch.Tensor
    pinned: torch.Tensor
    scale: float
    visual: torch.Tensor | None = None
    places: torch.Tensor | None = None


@dataclass(frozen=True, slots=True)
class Reduction:
    """Which rows go on, and what becomes of the others.

    Attributes:
        keep: int64 [m], rows that go on, ascending.
        into: int64 [n], for each row the index in ``keep`` it is merged into, -1 for none; None: rows that
            do not go on are dropped.
        mass: [n], weight of each row in its mean (tokens it stands for); None: all the same.
    """

    keep: torch.Tensor
    into: torch.Tensor | None = None
    mass: torch.Tensor | None = None

    def apply(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return hidden states [m, hidden] of the rows that go on: their own, or the mean of those merged."""
        import torch

        if self.into is None:
            return hidden[self.keep]
        mass = (
            torch.ones(len(hidden), dtype=torch.float32, device=hidden.device)
            if self.mass is None
            else self.mass.float()
        )
        goes = self.into >= 0
        target, share = self.into[goes], mass[goes]
        total = torch.zeros(len(self.keep), dtype=torch.float32, device=hidden.device).index_add_(
            0, target, share
        )
        merged = torch.zeros((len(self.keep), hidden.shape[1]), dtype=torch.float32, device=hidden.device)
        merged.index_add_(0, target, hidden[goes].float() * share[:, None])
        return (merged / total[:, None]).to(hidden.dtype)


class Reducer(Protocol):
    """Drops or merges rows between layers."""

    def acts_after(self, layer: int, depth: int) -> bool:
        """Tell whether :meth:`reduce` is to be asked behind ``layer`` of a model of ``depth`` layers."""
        ...

    def reduce(self, view: LayerView) -> Reduction | None:
        """Return what stays; None: everything."""
        ...


@dataclass(frozen=True, slots=True)
class Drop:
    """One step of a schedule.

    Attributes:
        layer: Behind this layer; a fraction below 1 is a share of the model's depth.
        keep: Rows that stay: a count, or a share of the rows that reach the layer.
    """

    layer: int | float
    keep: int | float

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: A layer below 0 or above a share of 1, nothing kept, or a share above 1.
        """
        if self.layer < 0 or (isinstance(self.layer, float) and self.layer >= 1):
            raise ConfigError(f"a layer is a number from 0 or a share below 1, not {self.layer}")
        if self.keep <= 0 or (isinstance(self.keep, float) and self.keep > 1):
            raise ConfigError(f"keep is a count from 1 or a share in (0, 1], not {self.keep}")

    def behind(self, depth: int) -> int:
        """Return the number of the layer in a model of ``depth`` layers, a share's last one."""
        if isinstance(self.layer, float):
            return max(0, round(self.layer * depth) - 1)
        return self.layer

    def count(self, rows: int) -> int:
        """Return how many of ``rows`` stay."""
        if isinstance(self.keep, float):
            return max(1, round(self.keep * rows))
        return min(rows, self.keep)


@dataclass(frozen=True, slots=True)
class TokenDropSchedule:
    """Drops the rows of least score behind chosen layers; kept sets are nested.

    Attributes:
        steps: When and how much, by layer.
        rule: Scores the rows from the queries of the window and all keys.
        rules: Layer -> its own rule, in place of ``rule``.
        said: float32 [n], written to: by position, the score at the last step that a token came to. None:
            nobody asks, and steps at which all stay do not score.
    """

    steps: Sequence[Drop]
    rule: ScoreRule = field(default_factory=AttentionProbability)
    rules: Mapping[int, ScoreRule] = field(default_factory=dict)
    said: torch.Tensor | None = None

    def acts_after(self, layer: int, depth: int) -> bool:
        """Tell whether a step lies behind ``layer``."""
        return any(step.behind(depth) == layer for step in self.steps)

    def reduce(self, view: LayerView) -> Reduction | None:
        """Keep the best rows; pinned rows count and come first."""
        rows = len(view.hidden)
        count = min(step.count(rows) for step in self.steps if step.behind(view.depth) == view.layer)
        if count >= rows and self.said is None:
            return None
        rule = self.rules.get(view.layer, self.rule)
        scores = rule.score(view.query[:, view.window], view.keys[:, -rows:], view.scale)
        if self.said is not None:
            self.said[view.positions] = scores
        return None if count >= rows else Reduction(best(scores, count, view.pinned))


def best(scores: torch.Tensor, count: int, pinned: torch.Tensor) -> torch.Tensor:
    """Return the rows of the ``count`` best scores, ascending int64; pinned ones first, and all of them.

    Args:
        scores: float [n].
        count: rows to keep, at least 1; pinned rows beyond it stay too.
        pinned: bool [n].
    """
    import torch

    count = min(len(scores), max(count, int(pinned.sum())))
    ranked = scores.masked_fill(pinned, torch.inf).topk(count).indices
    return ranked.sort().values
