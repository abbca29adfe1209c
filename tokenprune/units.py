"""Units: one document cut into what a scorer scores and a selector keeps or drops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import compress

import numpy as np

from tokenprune.arrays import BoolArray, IntArray
from tokenprune.document import Document
from tokenprune.tokens import TokenCounter, counts_between

GONE = -1  # owner of a range that the segmenter dropped


@dataclass(frozen=True)
class OffsetMap:
    """Where each piece of an output came from: int64 [p] columns, ascending.

    Inside a piece offsets run along one for one, up to the end of the piece's source.
    """

    out_start: IntArray
    src_start: IntArray
    src_end: IntArray

    def to_source(self, offsets: IntArray) -> IntArray:
        """Map output offsets to source offsets; ascending offsets stay ascending."""
        if not len(self.out_start):
            return np.zeros(len(offsets), dtype=np.int64)
        piece = np.maximum(np.searchsorted(self.out_start, offsets, side="right") - 1, 0)
        inside = np.maximum(offsets - self.out_start[piece], 0)
        mapped = np.minimum(self.src_start[piece] + inside, self.src_end[piece])
        return np.maximum.accumulate(mapped) if len(mapped) else mapped


@dataclass(frozen=True)
class Rendered:
    """The output for one document and where its characters came from."""

    text: str
    offsets: OffsetMap


@dataclass(frozen=True)
class Pieces:
    """Everything the output of a document can be made of, in order.

    Attributes:
        text: the pieces; tags and text are pieces of their own.
        owner: int64 [p], the unit a piece belongs to; ``-1 - w`` for a tag of wrapper w.
        src_start: int64 [p], where a piece stands in the original, ascending.
        src_end: int64 [p].
        tag: bool [p], whether the piece is markup; None when nothing is.
    """

    text: list[str]
    owner: IntArray
    src_start: IntArray
    src_end: IntArray
    tag: BoolArray | None = None

    def join(self, keep: BoolArray) -> Rendered:
        """Join the pieces under a mask, bool [p]."""
        texts = list(compress(self.text, keep.tolist()))
        lengths = np.fromiter(map(len, texts), dtype=np.int64, count=len(texts))
        offsets = OffsetMap(np.cumsum(lengths) - lengths, self.src_start[keep], self.src_end[keep])
        return Rendered("".join(texts), offsets)


@dataclass
class Units:
    """The units of one document, as columns.

    The ranges partition the document: range i is ``[range_start[i], range_start[i + 1])`` and the last
    ends at the end of the text. A unit owns one range, or several when dropped ranges (a script, say)
    interrupt it.

    Attributes:
        document: what was segmented.
        texts: what scorers read, one string per unit.
        context: headings above each unit, most general first; "" where there are none. For scorers.
        cost: int64 [n], tokens of a unit's own pieces.
        wrapper: int64 [n], innermost wrapper around a unit, -1 for none. A wrapper (an HTML element around
            several units) is rendered when any of its units is.
        wrapper_parent: int64 [w], wrapper around each wrapper, -1 for none; parents come first.
        wrapper_cost: int64 [w], tokens of a wrapper's own tags.
        lead: int64 [n], an earlier unit that should travel with this one (its heading, the header row of its
            table, the sentence that introduces its list), -1 for none.
        pieces: what the output is made of.
        range_start: int64 [r].
        range_owner: int64 [r], the unit, or GONE.
        range_reason: why a range is GONE, else "".
    """

    document: Document
    texts: list[str]
    context: list[str]
    cost: IntArray
    wrapper: IntArray
    wrapper_parent: IntArray
    wrapper_cost: IntArray
    lead: IntArray
    pieces: Pieces
    range_start: IntArray
    range_owner: IntArray
    range_reason: list[str] = field(repr=False)

    @classmethod
    def from_starts(cls, document: Document, starts: Sequence[int], counter: TokenCounter) -> Units:
        """Units that are plain slices of the text; ``starts`` ascending, from 0, without repeats."""
        bounds = np.asarray([*starts, len(document.text)], dtype=np.int64)
        texts = [document.text[a:b] for a, b in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True)]
        n = len(texts)
        owner = np.arange(n, dtype=np.int64)
        none = np.full(n, -1, dtype=np.int64)
        empty = np.empty(0, dtype=np.int64)
        return cls(
            document=document,
            texts=texts,
            context=[""] * n,
            cost=counts_between(counter.starts(document.text), bounds),
            wrapper=none,
            wrapper_parent=empty,
            wrapper_cost=empty,
            lead=none,
            pieces=Pieces(texts, owner, bounds[:-1], bounds[1:]),
            range_start=bounds[:-1],
            range_owner=owner,
            range_reason=[""] * n,
        )

    def __len__(self) -> int:
        return len(self.texts)

    def open_wrappers(self, keep: BoolArray) -> BoolArray:
        """Return which wrappers have a kept unit inside, bool [w]."""
        opened = np.zeros(len(self.wrapper_parent), dtype=bool)
        inner = self.wrapper[keep]
        opened[inner[inner >= 0]] = True
        for w in range(len(opened) - 1, -1, -1):  # parents come first, so children are settled before them
            if opened[w] and self.wrapper_parent[w] >= 0:
                opened[self.wrapper_parent[w]] = True
        return opened

    def piece_mask(self, keep: BoolArray) -> BoolArray:
        """Return which pieces are rendered when the units under ``keep``, bool [n], are kept."""
        owner = self.pieces.owner
        mask = np.zeros(len(owner), dtype=bool)
        own = owner >= 0
        mask[own] = keep[owner[own]]
        if len(self.wrapper_parent):
            mask[~own] = self.open_wrappers(keep)[-1 - owner[~own]]
        return mask
