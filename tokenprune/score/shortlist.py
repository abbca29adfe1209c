"""A labeler for what a cheap scorer finds best: stretches of text, so that sentences keep their context."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from tokenprune.arrays import BoolArray, FloatArray, IntArray
from tokenprune.models.labeler import Passage
from tokenprune.score import Scorer, within
from tokenprune.score.labeling import Labeling, joined
from tokenprune.select.simple import ranking
from tokenprune.units import Units


@dataclass(frozen=True)
class Stretch:
    """Consecutive units ``[start, end)`` of a document that are read as one passage."""

    document: int
    start: int
    end: int
    tokens: int


@dataclass(frozen=True)
class Shortlist:
    """Let a labeler read the most promising stretches of all documents, up to a number of tokens.

    A cross-encoder's cost grows with what it reads, and most of a long text can be ruled out for a thousandth
    of it: IDCM (arXiv 2105.09816) lets a cheap model choose the passages of a document that an expensive one
    reads. A stretch is as long as a window of the labeler and is worth as much as its best unit; a short
    document is one. Text that fits is read whole, and the cheap scorer is not asked.

    A unit that was read scores its keep probability; one that was not scores below all of them, in the cheap
    scorer's order.

    Args:
        cheap: reads all units; scores of 0 and more.
        labeling: reads the chosen stretches.
        max_tokens: how many tokens of units the labeler may read in one call; at least one stretch is read.
        stretch_tokens: most tokens of a stretch of several units.
    """

    cheap: Scorer
    labeling: Labeling
    max_tokens: int = 4096
    stretch_tokens: int = 200

    def score(self, query: str, documents: Sequence[Units]) -> list[FloatArray]:
        """Return the scores described above."""
        return self.score_and_rank(query, documents)[0]

    def score_and_rank(self, query: str, documents: Sequence[Units]) -> tuple[list[FloatArray], FloatArray]:
        """Return the scores, and the best rank logit of a document's stretches, NaN where none was read."""
        sizes = [len(u) for u in documents]
        if not sum(sizes) or sum(int(u.cost.sum()) for u in documents) <= self.max_tokens:
            return self.labeling.score_and_rank(query, documents)
        bounds = np.cumsum(sizes)[:-1]
        cheap = self.cheap.score(query, documents)
        best = max((float(np.abs(s).max()) for s in cheap if len(s)), default=0.0) or 1.0
        share = [s / best for s in cheap]
        stretches = [s for n, u in enumerate(documents) for s in self._stretches(n, u)]
        keep, read, rank, keep_rank = self._read(query, documents, self._best(stretches, share))
        kept = self.labeling.among(query, documents, np.split(keep, bounds), keep_rank)
        scores = [
            np.where(r, k, (c - 1.0) / 2 - 1.0)  # unread: within [-2, -1]
            for k, r, c in zip(kept, np.split(read, bounds), share, strict=True)
        ]
        return scores, rank

    def within(self, max_tokens: int) -> Shortlist:
        """Return a scorer that reads enough to fill a budget with what it has read: twice as many tokens."""
        return replace(
            self, cheap=within(self.cheap, max_tokens), max_tokens=max(self.max_tokens, 2 * max_tokens)
        )

    def _stretches(self, number: int, units: Units) -> list[Stretch]:
        """Cut a document; a unit that is longer than a stretch is one by itself."""
        found: list[Stretch] = []
        start, tokens = 0, 0
        for i, cost in enumerate(units.cost.tolist()):
            if i > start and tokens + cost > self.stretch_tokens:
                found.append(Stretch(number, start, i, tokens))
                start, tokens = i, 0
            tokens += cost
        if len(units):
            found.append(Stretch(number, start, len(units), tokens))
        return found

    def _best(self, stretches: Sequence[Stretch], share: Sequence[FloatArray]) -> list[Stretch]:
        """The stretches with the best units that hold ``max_tokens`` together, in document order."""
        worth = np.asarray([share[s.document][s.start : s.end].max() for s in stretches])
        taken: list[int] = []
        left = self.max_tokens
        for i in ranking(worth).tolist():
            if stretches[i].tokens <= left or not taken:
                taken.append(i)
                left -= stretches[i].tokens
        return [stretches[i] for i in sorted(taken)]

    def _read(
        self, query: str, documents: Sequence[Units], chosen: Sequence[Stretch]
    ) -> tuple[FloatArray, BoolArray, FloatArray, FloatArray]:
        first = np.concatenate(([0], np.cumsum([len(u) for u in documents]))).astype(np.int64)
        keep = np.zeros(int(first[-1]))
        read = np.zeros(int(first[-1]), dtype=bool)
        rank, keep_rank = np.full((2, len(documents)), np.nan)
        passages: list[Passage] = []
        edges: list[IntArray] = []
        for s in chosen:
            units = documents[s.document]
            text, bounds = joined(units, s.start, s.end)
            title = units.document.title if self.labeling.titles else None
            # What stands above a stretch says what it is about; at the top that is the title.
            passages.append(Passage(text, units.context[s.start] or title, tuple(bounds[1:-1].tolist())))
            edges.append(bounds)
        for s, bounds, found in zip(chosen, edges, self.labeling.labels(query, passages), strict=True):
            at = slice(int(first[s.document]) + s.start, int(first[s.document]) + s.end)
            keep[at] = found.means(bounds)
            read[at] = True
            rank[s.document] = np.fmax(rank[s.document], found.rank)
            keep_rank[s.document] = np.fmax(keep_rank[s.document], found.keep_rank)
        return keep, read, rank, keep_rank
