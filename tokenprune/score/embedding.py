"""Cosine similarity of sentence embeddings (HtmlRAG step 1, arXiv 2411.02959 section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tokenprune.arrays import FloatArray
from tokenprune.score import scorer_texts
from tokenprune.tokens import sanitize
from tokenprune.units import Units


@dataclass(frozen=True)
class Embedding:
    """Cosine of query and unit under a sentence encoder; of a unit longer than it reads, of its best window.

    Args:
        model: a named model, a folder or a hub name.
        max_length: tokens of a window; at most what the encoder reads.
        context: whether the headings above a unit are read with it, in each of its windows.
    """

    model: str = "minilm-l6"
    max_length: int = 256
    context: bool = True

    def score(self, query: str, documents: Sequence[Units]) -> list[FloatArray]:
        """Return cosines in [-1, 1]; all units of all documents are encoded in batches by length."""
        from tokenprune.models.encoder import Encoder

        sizes = [len(u) for u in documents]
        if not sum(sizes):
            return [np.zeros(n) for n in sizes]
        texts = [t for u in documents for t in (scorer_texts(u) if self.context else u.texts)]
        bodies = [t for u in documents for t in u.texts]
        heads = [text.removesuffix(body) for text, body in zip(texts, bodies, strict=True)]
        vectors, first = Encoder.load(self.model).encode_windows(
            [sanitize(text) for text in (query, *texts)],
            [None, *map(sanitize, heads)],
            self.max_length,
        )
        scores = np.maximum.reduceat(vectors @ vectors[0], first)[1:].astype(np.float64)
        return np.split(scores, np.cumsum(sizes)[:-1])
