"""Scorers: units -> how much each matters for the query. Higher is better; scales differ between scorers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from tokenprune.arrays import FloatArray
from tokenprune.units import Units


class Scorer(Protocol):
    """Scores all units of all documents of one call together, so that batches are full."""

    def score(self, query: str, documents: Sequence[Units]) -> list[FloatArray]:
        """Return one float64 [n] per document; finite, deterministic.

        A scorer whose work should follow the budget also has ``within(max_tokens) -> Scorer``.
        """
        ...


def within(scorer: Scorer, max_tokens: int) -> Scorer:
    """Return the scorer to use under a budget; one that has a ``within`` may read less, or must read more."""
    sized: Callable[[int], Scorer] | None = getattr(scorer, "within", None)
    return scorer if sized is None else sized(max_tokens)


def scorer_texts(units: Units) -> list[str]:
    """What to read of each unit: the headings above it (or the document's title), then its text."""
    title = units.document.title or ""
    return [
        f"{context or title}\n{text}" if context or title else text
        for context, text in zip(units.context, units.texts, strict=True)
    ]
