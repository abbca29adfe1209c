"""Similarity of a unit, of the section around it and of the heading above it, to a question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from tokenprune.arrays import Float32Array, FloatArray, IntArray
from tokenprune.score import Scorer, within
from tokenprune.score.cascade import from_0_to_1, or_lowest, worth_reading
from tokenprune.score.coarse import coarse_blocks
from tokenprune.score.neighbours import smoothed
from tokenprune.tokens import sanitize
from tokenprune.units import Units

# Of word vectors beside the cheap score when it is chosen what the encoder reads (benchmarks/RESULTS.md).
_WORDS = 2.0


@dataclass(frozen=True)
class Sections:
    """Embeddings of units, put together to those of their sections, beside a cheap score.

    A short block answers a question by what stands around it, which HtmlRAG (arXiv 2411.02959, section 3.3)
    reads by embedding blocks of 256 words. Here the small units are embedded, each without its headings, and
    a section's vector is the mean of its units' (weighed by tokens): as good as reading the section in one,
    and every token is read once. The headings above are embedded by themselves, once each; a heading that
    says what the question says vouches for what it stands above, one that does not takes nothing away.
    (Read together with the text, as one does with titles of passages, a heading that is off the topic spoils
    the similarity: benchmarks/RESULTS.md.)

    The score of a unit is ``smoothed(cheap_weight * cheap / best cheap + cosine of the unit)``, with the
    weights of `Neighbours`, plus ``weight * max(cosine of its section, cosine of its heading)``. Where the
    encoder may not read everything, it reads the units that look best before, as in IDCM (arXiv 2105.09816),
    and the others get the lowest similarities that were given. They look as good as their cheap score, as a
    share of the best one, and twice what ``words`` says, from 0 to 1 over the call and lent to neighbours: an
    answer that shares no word with the question is not passed over then.

    Args:
        cheap: reads all units; non-negative scores.
        model: a sentence encoder: a named model, a folder or a hub name.
        max_tokens: tokens of units that the encoder may read in one call; None: all of them.
        words: helps to choose what is read, such as `WordVectors`; no part of the score. None: ``cheap``
            alone.
        weight: of section and heading.
        cheap_weight: of the cheap score, as a share of the best one.
        coarse_words: of the largest element that counts as a section.
    """

    cheap: Scorer
    model: str = "minilm-l6"
    max_tokens: int | None = 1024
    words: Scorer | None = None
    weight: float = 1.0
    cheap_weight: float = 0.5
    coarse_words: int = 256

    def score(self, query: str, documents: Sequence[Units]) -> list[FloatArray]:
        """Return the sums described above."""
        from tokenprune.models.encoder import Encoder

        first = self.cheap.score(query, documents)
        if not sum(map(len, first)):
            return first
        flat = np.concatenate(first)
        chosen = np.ones(len(flat), dtype=bool)
        if self.max_tokens is not None and sum(int(u.cost.sum()) for u in documents) > self.max_tokens:
            chosen = worth_reading(documents, self._promise(query, documents, flat), self.max_tokens)
        bounds = np.cumsum([len(u) for u in documents])[:-1]
        reads = [np.flatnonzero(mask) for mask in np.split(chosen, bounds)]
        texts: dict[str, int] = {}
        for units, read in zip(documents, reads, strict=True):
            for i in read.tolist():
                texts.setdefault(units.texts[i], len(texts))
                texts.setdefault(units.context[i], len(texts))
        safe = [sanitize(text) for text in (query, *texts)]
        vectors = Encoder.load(self.model).encode(safe)
        asked, vectors = vectors[0], vectors[1:]
        similar, near = [], []
        for units, read in zip(documents, reads, strict=True):
            own = vectors[[texts[units.texts[i]] for i in read.tolist()]]
            heading = vectors[[texts[units.context[i]] for i in read.tolist()]] @ asked
            heading[[not units.context[i] for i in read.tolist()]] = -1.0
            similar.append(own @ asked)
            near.append(np.maximum(self._section_vectors(units, read, own) @ asked, heading))
        columns = [or_lowest(np.concatenate(c).astype(np.float64), chosen) for c in (similar, near)]
        best = float(np.abs(flat).max()) or 1.0
        return [
            smoothed(units, self.cheap_weight * cheap / best + unit) + self.weight * section
            for units, cheap, unit, section in zip(
                documents, first, *(np.split(c, bounds) for c in columns), strict=True
            )
        ]

    def _promise(self, query: str, documents: Sequence[Units], cheap: FloatArray) -> FloatArray:
        """How good units look before the encoder reads any, float64 [n]."""
        if self.words is None:
            return cheap
        said = from_0_to_1(self.words.score(query, documents))
        shares = [smoothed(u, s) for u, s in zip(documents, said, strict=True)]
        return cheap / (float(np.abs(cheap).max()) or 1.0) + _WORDS * np.concatenate(shares)

    def within(self, max_tokens: int) -> Sections:
        """Return a scorer that reads two budgets, if that is more than it would have."""
        if self.max_tokens is None:
            return self
        return replace(
            self, cheap=within(self.cheap, max_tokens), max_tokens=max(self.max_tokens, 2 * max_tokens)
        )

    def _section_vectors(self, units: Units, read: IntArray, own: Float32Array) -> Float32Array:
        """The section's vector of every unit that was read, float32 [read, d], of unit length."""
        if not len(own):
            return own
        _, block = np.unique(coarse_blocks(units, self.coarse_words)[read], return_inverse=True)
        total = np.zeros((int(block.max()) + 1, own.shape[1]), dtype=np.float32)
        np.add.at(total, block, own * np.maximum(units.cost[read], 1)[:, None])
        total /= np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-9)
        return np.asarray(total[block])
