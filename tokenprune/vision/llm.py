"""Visual tokens that leave inside the language model: what methods have in common, and a strategy.

A method before the language model shrinks what it reads; a method inside it lets some layers see every visual
token first. The latter are reducers of the engine (:class:`tokenprune.engine.schedule.Reducer`), one file
each in :mod:`tokenprune.vision.methods`; both kinds go together, since the second starts from whatever the
first has left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tokenprune.engine.decoder import Check, Decoder
from tokenprune.engine.reading import Reading, read_prompt
from tokenprune.engine.rules import AttentionProbability
from tokenprune.engine.schedule import LayerView, Marks, Reducer, Reduction, best
from tokenprune.errors import ConfigError
from tokenprune.vision.tokens import rows_of

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Inside:
    """A strategy of the engine: read the prompt and reduce it between layers.

    Attributes:
        reducers: Each acts behind layers of its own.
    """

    reducers: tuple[Reducer, ...]

    def prefill(self, decoder: Decoder, ids: Sequence[int], marks: Marks, check: Check) -> Reading:
        """Read ``ids``; see :class:`tokenprune.engine.engine.Strategy`."""
        return read_prompt(decoder, ids, reducer=self, marks=marks, check=check)

    def acts_after(self, layer: int, depth: int) -> bool:
        """Tell whether one of the reducers acts behind ``layer``.

        Raises:
            ConfigError: Two do.
        """
        acting = self._acting(layer, depth)
        if len(acting) > 1:
            raise ConfigError(f"{len(acting)} methods act behind layer {layer}: name other layers")
        return bool(acting)

    def reduce(self, view: LayerView) -> Reduction | None:
        """Let the one that acts here decide."""
        (acting,) = self._acting(view.layer, view.depth)
        return acting.reduce(view)

    def _acting(self, layer: int, depth: int) -> list[Reducer]:
        return [reducer for reducer in self.reducers if reducer.acts_after(layer, depth)]


@dataclass(frozen=True, slots=True)
class After:
    """When and how much: behind the last of the layers that see everything.

    Attributes:
        layers: How many see everything; a share of the depth when below 1.
        keep: Visual tokens that stay: a count, or a share of those that are left.
    """

    layers: int | float
    keep: int | float

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: No layer sees everything, or a share of 1 and more.
            BudgetError: Nothing or more than everything is kept.
        """
        if self.layers <= 0 or (isinstance(self.layers, float) and self.layers >= 1):
            raise ConfigError(
                f"layers that see everything: a count from 1 or a share in (0, 1), not {self.layers}"
            )
        rows_of(self.keep, 1)

    def is_behind(self, layer: int, depth: int) -> bool:
        """Tell whether ``layer``, from 0, is the last one that sees everything.

        Raises:
            ConfigError: No layer would be left behind it.
        """
        count = max(1, round(self.layers * depth)) if isinstance(self.layers, float) else self.layers
        if count >= depth:
            raise ConfigError(f"{count} layers shall see everything, and the model has only {depth}")
        return layer == count - 1

    def most_looked_at(self, view: LayerView, asked: torch.Tensor | slice) -> torch.Tensor | None:
        """Return the rows that go on when the visual tokens with the least attention leave.

        Args:
            view: The sequence.
            asked: Rows whose attention probability counts, mean over them and over heads.

        Returns:
            int64 [m], ascending: all text and the best visual tokens; pinned ones stay first. None: all stay.
        """
        if view.visual is None:
            return None
        seen = int(view.visual.sum())
        count = rows_of(self.keep, seen) if seen else 0
        if count >= seen:
            return None
        keys = view.keys[:, -len(view.hidden) :]
        scores = AttentionProbability().score(view.query[:, asked], keys, view.scale)
        return best(scores, len(view.hidden) - seen + count, ~view.visual | view.pinned)
