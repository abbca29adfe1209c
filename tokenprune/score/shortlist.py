"""A labeler for what a cheap scorer finds best: stretches of text, so that sentences keep their context."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from tokenprune.arrays import BoolArray, FloatArray, IntArray
from tokenprune.models.labeler import Passage
from tokenprune.score import Scorer, within
from tokenprune.score.cascade import from_0_to_1
from tokenprune.score.labeling import Labeling, joined
from tokenprune.select.simple import ranking
from tokenprune.units import Units

# Chosen on validation lists of four sets (benchmarks/RESULTS.md): no passage with evidence is lost that the
# labeler's own rank would find in the best quarter, and half is not read.
MARGIN = 0.2
SHARE = 0.25
LEAST = 512  # below it there is little to save
# Most tokens of a document that is read in one: labelers have windows of 512, and a question stands in them.
WINDOW = 400


@dataclass(frozen=True)
class Stretch:
    """Consecutive units ``[start, end)`` of a document that are read as one passage."""

    document: int
    start: int
    end: int
    tokens: int


@dataclass(frozen=True)
class Shortlist:
    """Let a labeler read the most promising stretches of all documents.

    A cross-encoder's cost grows with what it reads, and most of a long text can be ruled out for a thousandth
    of it: IDCM (arXiv 2105.09816) lets a cheap model choose the passages of a document that an expensive one
    reads. A document that fits into a window of the labeler is one stretch, a longer one is cut into several;
    a stretch is worth as much as its best unit.

    What is cheap are the labeler's own word vectors (`WordVectors`), where it has them: their cosines mean
    the same in every call, so that all is read that comes near the best (``margin``), and at least a share of
    the call. Of a labeler without them all is read, up to ``max_tokens``, which ``cheap`` then chooses.
    Little text is read whole, and nothing is asked first.

    A unit that was read scores its keep probability; one that was not scores below all of them, in the order
    of the cheap scores.

    Args:
        labeling: reads the chosen stretches.
        cheap: chooses them where the labeler has no word vectors.
        max_tokens: how many tokens of units the labeler may read in one call; at least one stretch is read.
            None: any number.
        stretch_tokens: most tokens of a stretch of several units of a document that is cut.
        skim: whether word vectors rule text out.
        margin: how far below the best one's a stretch's score by word vectors may lie.
        share: of a call's tokens that are read in any case.
        least: tokens that are read in any case.
    """

    labeling: Labeling
    cheap: Scorer
    max_tokens: int | None = None
    stretch_tokens: int = 200
    skim: bool = True
    margin: float = MARGIN
    share: float = SHARE
    least: int = LEAST

    def score(self, query: str, documents: Sequence[Units]) -> list[FloatArray]:
        """Return the scores described above."""
        return self.score_and_rank(query, documents)[0]

    def score_and_rank(self, query: str, documents: Sequence[Units]) -> tuple[list[FloatArray], FloatArray]:
        """Return the scores, and the best rank logit of a document's stretches, NaN where none was read."""
        sizes = [len(u) for u in documents]
        total = sum(int(u.cost.sum()) for u in documents)
        most = total if self.max_tokens is None else self.max_tokens
        if not sum(sizes) or total <= min(most, self.least):
            return self.labeling.score_and_rank(query, documents)
        words = self.labeling.word_vectors if self.skim else None
        if words is None and total <= most:
            return self.labeling.score_and_rank(query, documents)
        cheap = (words or self.cheap).score(query, documents)
        stretches = [s for n, u in enumerate(documents) for s in self._stretches(n, u, most)]
        worth = np.asarray([cheap[s.document][s.start : s.end].max() for s in stretches])
        floor = -np.inf if words is None else float(worth.max()) - self.margin
        chosen = _best(stretches, worth, most, floor, max(self.least, self.share * total))
        if len(chosen) == len(stretches):
            return self.labeling.score_and_rank(query, documents)
        keep, read, rank, keep_rank = self._read(query, documents, chosen)
        bounds = np.cumsum(sizes)[:-1]
        kept = self.labeling.among(query, documents, np.split(keep, bounds), keep_rank)
        scores = [
            np.where(r, k, c / 2 - 2.0)  # unread: within [-2, -1.5]
            for k, r, c in zip(kept, np.split(read, bounds), from_0_to_1(cheap), strict=True)
        ]
        return scores, rank

    def within(self, max_tokens: int) -> Shortlist:
        """Return a scorer that reads enough to fill a budget with what it has read: twice as many tokens."""
        return replace(
            self,
            cheap=within(self.cheap, max_tokens),
            max_tokens=None if self.max_tokens is None else max(self.max_tokens, 2 * max_tokens),
            least=max(self.least, 2 * max_tokens),
        )

    def _stretches(self, number: int, units: Units, most: int) -> list[Stretch]:
        """Cut a document; a unit that is longer than a stretch is one by itself."""
        found: list[Stretch] = []
        start, tokens = 0, 0
        whole = int(units.cost.sum()) <= min(WINDOW, most)
        for i, cost in enumerate(units.cost.tolist()):
            if i > start and tokens + cost > self.stretch_tokens and not whole:
                found.append(Stretch(number, start, i, tokens))
                start, tokens = i, 0
            tokens += cost
        if len(units):
            found.append(Stretch(number, start, len(units), tokens))
        return found

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


def _best(
    stretches: Sequence[Stretch], worth: FloatArray, most: int, floor: float, least: float
) -> list[Stretch]:
    """Choose the best stretches that hold no more than ``most`` tokens, at least one; in document order.

    Behind the first ``least`` tokens only those count that are worth ``floor``.
    """
    taken: list[int] = []
    tokens = 0
    for i in ranking(worth).tolist():
        if tokens >= least and worth[i] < floor:
            break
        if tokens + stretches[i].tokens <= most or not taken:
            taken.append(i)
            tokens += stretches[i].tokens
    return [stretches[i] for i in sorted(taken)]
