"""Scorers: units -> how much each matters for the query. Higher is better; scales differ between scorers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from tokenprune.arrays import FloatArray
from tokenprune.units import Units


class Scorer(Protocol):
    """Scores all units of all documents of one call together, so that batches are full."""

    def score(self, query: str, documents: Sequence[Units]) -> list[FloatArray]:
        """Return one float64 [n] per document; finite, deterministic.

        A scorer whose work should follow the budget also has ``within(max_tokens) -> Scorer``, one that
        ranks whole documents as well is a `Ranker`, and one whose scores need a word of caution is a `Noter`.
        """
        ...


class Ranker(Scorer, Protocol):
    """A scorer that also says how much each document as a whole matters."""

    def score_and_rank(self, query: str, documents: Sequence[Units]) -> tuple[list[FloatArray], FloatArray]:
        """Return what `score` returns, and a rank score per document, float64 [documents], NaN for none."""
        ...


class Noter(Scorer, Protocol):
    """A scorer that also says what a receipt must say of its scores."""

    def score_and_note(
        self, query: str, documents: Sequence[Units]
    ) -> tuple[list[FloatArray], tuple[str, ...]]:
        """Return what `score` returns, and notes in words; mostly none."""
        ...


def within(scorer: Scorer, max_tokens: int) -> Scorer:
    """Return the scorer to use under a budget; one that has a ``within`` may read less, or must read more."""
    sized: Callable[[int], Scorer] | None = getattr(scorer, "within", None)
    return scorer if sized is None else sized(max_tokens)


def ranks(scorer: Scorer) -> bool:
    """Tell whether a scorer is a `Ranker`."""
    return hasattr(scorer, "score_and_rank")


def score_and_rank(
    scorer: Scorer, query: str, documents: Sequence[Units]
) -> tuple[list[FloatArray], FloatArray]:
    """Score units and rank documents; where the scorer does not rank, a document is worth its best unit."""
    own: Callable[[str, Sequence[Units]], tuple[list[FloatArray], FloatArray]] | None = getattr(
        scorer, "score_and_rank", None
    )
    if own is not None:
        return own(query, documents)
    scores = scorer.score(query, documents)
    return scores, _best(scores)


def score_rank_and_note(
    scorer: Scorer, query: str, documents: Sequence[Units]
) -> tuple[list[FloatArray], FloatArray, tuple[str, ...]]:
    """As `score_and_rank`, and what a receipt must say of the scores: nothing for most scorers."""
    own: Callable[[str, Sequence[Units]], tuple[list[FloatArray], tuple[str, ...]]] | None = getattr(
        scorer, "score_and_note", None
    )
    if own is None:
        return *score_and_rank(scorer, query, documents), ()
    scores, said = own(query, documents)
    return scores, _best(scores), said


def _best(scores: Sequence[FloatArray]) -> FloatArray:
    return np.asarray([float(s.max()) if len(s) else np.nan for s in scores], dtype=np.float64)


def scorer_texts(units: Units) -> list[str]:
    """What to read of each unit: the headings above it (or the document's title), then its text."""
    title = units.document.title or ""
    return [
        f"{context or title}\n{text}" if context or title else text
        for context, text in zip(units.context, units.texts, strict=True)
    ]
