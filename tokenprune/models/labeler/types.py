"""What goes into a labeler and what comes out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from tokenprune.arrays import Float32Array, IntArray

# Mean keep probability above which a sentence stays, where the model does not name its own:
# "conservative" in Provence (arXiv 2501.16214), and the default of the published models' `process`.
DEFAULT_THRESHOLD = 0.1


@dataclass(frozen=True, slots=True)
class Passage:
    """A passage to read.

    Args:
        text: offsets are in characters of this string.
        title: read before the text (before every window of it); has no labels. None: there is none.
        breaks: ascending offsets where the text may be cut when it is longer than the model's window
            (sentence starts); a model that judges sentences judges what lies between them. A stretch that is
            longer than the window by itself is cut between tokens.
    """

    text: str
    title: str | None = None
    breaks: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Labels:
    """What a labeler says of one passage of t tokens.

    Attributes:
        rank: relevance of the passage, a raw logit, higher is better; NaN for a passage without tokens.
        keep_rank: what it is compared with other passages by where rank has a say in what is kept (see
            `Labeling`), a raw logit as well; most models have one rank for both.
        keep: float32 [t], probability that a token belongs to what answers the question.
        start: int64 [t], where each token starts in the passage's text, in characters.
        end: int64 [t], where it ends; a token may be empty.
    """

    rank: float
    keep_rank: float
    keep: Float32Array
    start: IntArray
    end: IntArray

    def means(self, bounds: IntArray) -> npt.NDArray[np.float64]:
        """Mean keep probability of the tokens of each stretch of the text, float64 [n].

        A token belongs to the stretch that its last character lies in: tokens may begin with the space that
        ends the stretch before. A stretch without tokens gets 0, as in OpenProvence.

        Args:
            bounds: int64 [n + 1], ascending; stretch i is ``[bounds[i], bounds[i + 1])``.
        """
        n = len(bounds) - 1
        last = np.maximum(self.end - 1, self.start)
        of = np.searchsorted(bounds, last, side="right") - 1
        inside = (of >= 0) & (of < n)
        count = np.bincount(of[inside], minlength=n)[:n]
        total = np.bincount(of[inside], weights=self.keep[inside].astype(np.float64), minlength=n)[:n]
        return np.asarray(total / np.maximum(count, 1), dtype=np.float64)


@dataclass(frozen=True, slots=True)
class Batch:
    """Windows for a network: b rows, padded on the right to t tokens.

    Attributes:
        ids: int64 [b, t].
        mask: int64 [b, t], 1 for tokens and 0 for padding.
        types: int64 [b, t], the segment of each token as the tokenizer numbers it.
        query: int64 [b, 2], columns of the question's tokens, first and behind the last.
        passage: int64 [b, 2], the same of the passage's tokens; its title stands before them.
        sentence: int64 [b, t], which stretch between the passage's breaks a token lies in, counted from 0 in
            every window; -1 for all that is not of the passage.
    """

    ids: IntArray
    mask: IntArray
    types: IntArray
    query: IntArray
    passage: IntArray
    sentence: IntArray


class Read(NamedTuple):
    """What a network says of b windows of t tokens.

    Attributes:
        rank: float32 [b], see `Labels`.
        keep_rank: float32 [b], see `Labels`.
        keep: float32 [b, t], keep probabilities (any value in padding).
    """

    rank: Float32Array
    keep_rank: Float32Array
    keep: Float32Array


class Network(Protocol):
    """A model behind a `Labeler`; torch, ONNX Runtime or anything else. Called from several threads."""

    def run(self, batch: Batch) -> Read:
        """Return rank logits and keep probabilities of a batch."""
        ...


class Words(Protocol):
    """What a labeler knows of words without reading them in context."""

    def vectors(self, ids: IntArray) -> Float32Array:
        """Return float32 [n, d] of unit length, of token ids int64 [n]."""
        ...

    def rarity(self, ids: IntArray) -> Float32Array:
        """Return how rare tokens are, 0 or more, float32 [n]."""
        ...
