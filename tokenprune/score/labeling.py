"""Sentences by the keep probabilities of a labeler that reads whole passages (Provence, arXiv 2501.16214)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tokenprune.arrays import FloatArray, IntArray
from tokenprune.models.labeler import Labeler, Labels, Passage
from tokenprune.models.labeler.cache import DEFAULT_CACHE_BYTES, cache_of
from tokenprune.score.bm25 import BM25
from tokenprune.score.word_vectors import WordVectors
from tokenprune.units import Units

_LARGEST_SHIFT = 50.0  # of a logit; what is further off is 0 or 1 anyway


@dataclass(frozen=True)
class Labeling:
    """Mean keep probability of the tokens of each unit; ranks documents by the same pass.

    Where the labeler asks for it (``lexical``), the logit of a unit's probability is raised by so much times
    its BM25 score as a share of the best one of the call: names and numbers that stand in question and text
    count as much in domains that the model has not seen.

    Where it asks for that (``rank_weight``, ``rank_slack``), the logit is lowered by ``rank_weight`` for each
    unit that the document's `Labels.keep_rank` lies more than ``rank_slack`` below the best one of the call:
    a sentence that looks right in a passage about something else is seldom the one that answers. A document
    alone, or one that ranks about as well as the best, is judged by itself; copies and the order of documents
    make no difference to it. The ranks returned are the `Labels.rank`.

    The units of a document are read together, as one passage: a sentence is judged in its context. Text that
    is longer than the model's window is read in windows that overlap, cut between units; blocks of HTML are
    read as lines of text.

    Args:
        model: a labeler, or what `Labeler.load` makes one of.
        titles: whether the model reads a document's title before it.
        cache_bytes: what is remembered of what was read; shared by all scorers of the model with the same
            size. 0 remembers nothing.
    """

    model: str | Labeler
    titles: bool = True
    cache_bytes: int = DEFAULT_CACHE_BYTES

    def score(self, query: str, documents: Sequence[Units]) -> list[FloatArray]:
        """Return probabilities in [0, 1]; 0 for a unit without tokens."""
        return self.score_and_rank(query, documents)[0]

    def score_and_rank(self, query: str, documents: Sequence[Units]) -> tuple[list[FloatArray], FloatArray]:
        """Return the probabilities, and the rank logit of each document, NaN where there are no units."""
        scores: list[FloatArray] = [np.zeros(len(units)) for units in documents]
        rank, keep_rank = np.full((2, len(documents)), np.nan)
        filled = [n for n, units in enumerate(documents) if len(units)]
        if not filled:
            return scores, rank
        texts = [joined(documents[n]) for n in filled]
        passages = [
            Passage(text, documents[n].document.title if self.titles else None, tuple(bounds[1:-1].tolist()))
            for n, (text, bounds) in zip(filled, texts, strict=True)
        ]
        for n, (_, bounds), found in zip(filled, texts, self.labels(query, passages), strict=True):
            scores[n] = found.means(bounds)
            rank[n], keep_rank[n] = found.rank, found.keep_rank
        return self.among(query, documents, scores, keep_rank), rank

    def among(
        self, query: str, documents: Sequence[Units], keep: Sequence[FloatArray], keep_rank: FloatArray
    ) -> list[FloatArray]:
        """Judge units among those of all documents: by words and by rank, as described above.

        Args:
            query: the question.
            documents: all of the call.
            keep: float64 [n] per document, what the model says of its units.
            keep_rank: float64 [documents], see `Labels`; NaN for one that was not read.

        Returns:
            Probabilities like ``keep``.
        """
        labeler = Labeler.of(self.model)
        shift = [np.zeros(len(p)) for p in keep]
        if labeler.lexical:
            words = BM25().score(query, documents)
            best = max((float(w.max()) for w in words if len(w)), default=0.0)
            if best > 0:
                shift = [labeler.lexical * w / best for w in words]
        if labeler.rank_weight and np.isfinite(keep_rank).any():
            behind = np.nan_to_num(np.nanmax(keep_rank) - keep_rank) - labeler.rank_slack
            shift = [
                s - labeler.rank_weight * max(0.0, b) for s, b in zip(shift, behind.tolist(), strict=True)
            ]
        return [_shifted(p, s) for p, s in zip(keep, shift, strict=True)]

    @property
    def word_vectors(self) -> WordVectors | None:
        """A scorer by the labeler's word vectors, where it has any."""
        labeler = Labeler.of(self.model)
        return None if labeler.words is None else WordVectors(labeler, context=self.titles)

    def labels(self, query: str, passages: Sequence[Passage]) -> list[Labels]:
        """Read passages, or remember what was read of them."""
        labeler = Labeler.of(self.model)
        return cache_of(labeler, self.cache_bytes).label(labeler, query, passages)


def _shifted(p: FloatArray, shift: FloatArray) -> FloatArray:
    """sigmoid(logit(p) + shift) without the logit, which 0 and 1 have none of."""
    odds = np.exp(np.clip(shift, -_LARGEST_SHIFT, _LARGEST_SHIFT))
    return np.asarray(np.where(shift == 0, p, p * odds / (1 - p + p * odds)), dtype=np.float64)


def joined(units: Units, start: int = 0, end: int | None = None) -> tuple[str, IntArray]:
    """The text of units ``[start, end)`` and where each starts, int64 [n + 1]; the last is the end."""
    # Units of text are slices of it; blocks of a page have lost what stood between them.
    gap = "" if units.pieces.tag is None else "\n"
    parts = [text + gap for text in units.texts[start:end]]
    lengths = np.fromiter(map(len, parts), dtype=np.int64, count=len(parts))
    return "".join(parts), np.concatenate(([0], np.cumsum(lengths))).astype(np.int64)
