"""Scores that do not look at the text: document order, and chance. The baselines."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tokenprune.arrays import FloatArray
from tokenprune.units import Units


@dataclass(frozen=True)
class Position:
    """What a plain cut keeps, all documents taken as one text: its head, its tail, or both ends."""

    keep: Literal["head", "tail", "ends"] = "head"

    def score(self, query: str, documents: Sequence[Units]) -> list[FloatArray]:
        """Return scores in (0, 1] that fall from the end, or the ends, that is kept."""
        total = sum(len(u) for u in documents)
        far = np.arange(total, dtype=np.float64)
        if self.keep == "tail":
            far = far[::-1]
        elif self.keep == "ends":
            far = 2 * np.minimum(far, far[::-1])
        scores = 1.0 - far / max(1, total)
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
