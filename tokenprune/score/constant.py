"""Scores that do not look at the text: document order, and chance. The baselines."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tokenprune.arrays import FloatArray
from tokenprune.units import Units


@dataclass(frozen=True)
class Position:
    """Earlier units score higher, in every document alike: what a plain cut at the end keeps."""

    def score(self, query: str, documents: Sequence[Units]) -> list[FloatArray]:
        """Return scores that fall from 1 to 0 over the documents taken in order."""
        total = sum(len(u) for u in documents)
        scores = 1.0 - np.arange(total, dtype=np.float64) / max(1, total)
        return np.split(scores, np.cumsum([len(u) for u in documents])[:-1]) if documents else []


@dataclass(frozen=True)
class Random:
    """Uniform scores in [0, 1): the same for the same seed, query and text of a document."""

    seed: int = 0

    def score(self, query: str, documents: Sequence[Units]) -> list[FloatArray]:
        """Return uniform random scores."""
        scores = []
        for i, units in enumerate(documents):
            key = f"{self.seed}\0{i}\0{query}\0{units.document.text}".encode("utf-8", "surrogatepass")
            seed = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big")
            scores.append(np.random.default_rng(seed).random(len(units)))
        return scores
