"""Units: one document cut into what a scorer scores and a selector keeps or drops."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import compress, pairwise
from types import MappingProxyType

import numpy as np

from tokenprune.arrays import BoolArray, IntArray
from tokenprune.document import Document, Kind
from tokenprune.markup import Markup
from tokenprune.tokens import TokenCounter, counts_between

_AS_THEY_ARE: Mapping[int, str] = MappingProxyType({})
GONE = -1  # owner of a range that the segmenter dropped; -2 - w is a range that stays with wrapper w
_CONTEXT = 300  # characters of the headings above a unit that scorers read


@dataclass(frozen=True)
class OffsetMap:
    """Where each piece of an output came from: int64 [p] columns, ascending.

    Inside a piece offsets run along one for one, up to the end of the piece's source.
    """

    out_start: IntArray
    src_start: IntArray
    src_end: IntArray
    resolve: Callable[[int, int], int] | None = None  # (piece, offset inside) -> source, where lengths differ

    def to_source(self, offsets: IntArray) -> IntArray:
        """Map output offsets to source offsets; ascending offsets stay ascending."""
        if not len(self.out_start):
            return np.zeros(len(offsets), dtype=np.int64)
        piece = np.maximum(np.searchsorted(self.out_start, offsets, side="right") - 1, 0)
        inside = np.maximum(offsets - self.out_start[piece], 0)
        mapped = np.minimum(self.src_start[piece] + inside, self.src_end[piece])
        if self.resolve is not None:
            for i in np.flatnonzero(inside > 0).tolist():
                mapped[i] = min(self.resolve(int(piece[i]), int(inside[i])), int(self.src_end[piece[i]]))
        return np.maximum.accumulate(mapped) if len(mapped) else mapped


@dataclass(frozen=True)
class Rendered:
    """The output for one document and where its characters came from."""

    text: str
    offsets: OffsetMap
    kind: Kind | None = None  # of the output, where it differs from the document's
    owner: IntArray | None = None  # int64 [p] of the offsets' pieces, as in `Pieces`; None: not known


@dataclass(frozen=True)
class Pieces:
    """Everything the output of a document can be made of, in order.

    Attributes:
        text: the pieces; tags and text are pieces of their own.
        owner: int64 [p], the unit a piece belongs to; ``-1 - w`` for a tag of wrapper w.
        src_start: int64 [p], where a piece stands in the original, ascending.
        src_end: int64 [p].
        tag: bool [p], whether the piece is markup; None when nothing is.
        source: the original.
        brief: the pieces in their shortest form, what `join` joins; None: as they are in ``text``.
    """

    text: list[str]
    owner: IntArray
    src_start: IntArray
    src_end: IntArray
    tag: BoolArray | None = None
    source: str = ""
    brief: list[str] | None = None

    def _beside(self, i: int, step: int, places: list[int], tag: list[bool]) -> int:
        """The text that stands in the same line beside kept piece ``i``, or is it; -1 for none."""
        from tokenprune.segment.html_tags import sets_apart

        while 0 <= i < len(places) and tag[i]:
            if sets_apart(self.text[places[i]]):
                return -1
            i += step
        return i if i < len(places) else -1

    def join(
        self, keep: BoolArray, *, brief: bool = True, written: Mapping[int, str] = _AS_THEY_ARE
    ) -> Rendered:
        """Join the pieces under a mask, bool [p], in their brief form or as they are.

        Of a page, white space at both ends goes: it stood beside something that is dropped. ``written`` takes
        the place of some of the pieces.
        """
        texts = list(compress(self.brief if brief and self.brief is not None else self.text, keep.tolist()))
        if written:
            for k, i in enumerate(np.flatnonzero(keep).tolist()):
                texts[k] = written.get(i, texts[k])
        if self.tag is not None and len(texts) > 1:
            # Where something between two texts is dropped, their words must not run together.
            at = np.flatnonzero(keep)
            gaps = np.flatnonzero(at[1:] > at[:-1] + 1)
            if len(gaps):
                places, tag = at.tolist(), self.tag[at].tolist()
                for gap in gaps.tolist():
                    a, b = self._beside(gap, -1, places, tag), self._beside(gap + 1, 1, places, tag)
                    if a >= 0 and b >= 0 and not texts[a][-1:].isspace() and not texts[b][:1].isspace():
                        texts[a] += "\n"
        if self.tag is not None:
            for step in (1, -1):
                for k in range(len(texts))[::step]:
                    if texts[k] and not texts[k].isspace():
                        break
                    texts[k] = ""
        lengths = np.fromiter(map(len, texts), dtype=np.int64, count=len(texts))
        begin, end = self.src_start[keep], self.src_end[keep]

        def resolve(piece: int, inside: int) -> int:
            from tokenprune.segment.html_ranges import source_offsets

            a, b = int(begin[piece]), int(end[piece])
            return a + source_offsets(self.source[a:b], texts[piece], [inside])[0]

        exact = resolve if self.tag is not None else None
        offsets = OffsetMap(np.cumsum(lengths) - lengths, begin, end, exact)
        # Costs are those of the brief form: only another one has to be priced again.
        return Rendered("".join(texts), offsets, owner=None if brief else self.owner[keep])


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
        range_owner: int64 [r], the unit, GONE, or -2 - w for white space that stays with wrapper w.
        range_reason: why a range is GONE, else "".
        separates: int64 [w], for wrappers that only part paragraphs: the last unit before the gap. Such a
            wrapper is rendered when units on both sides are. None: there are no such wrappers.
        markup: of a page, when its segmenter was asked for it.
        level: int64 [n], of headings and titles, the most general ones 1; 0 for other units. None: there are
            none.
        along: bool [n], units that come with what leads them where they lead another one: the second row of a
            header, a row that names a group of rows, one with a cell that reaches into others. None: there
            are none.
        term: bool [n], units that belong to what they lead: neither is kept without the other, as a term
            would be read with another meaning. None: there are none.
        entry: bool [n], units that only link to places of their page, as a table of contents does. None:
            there are none.
        notes: what the receipt should say of the document.
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
    separates: IntArray | None = None
    markup: Markup | None = field(default=None, repr=False)
    level: IntArray | None = None
    along: BoolArray | None = None
    term: BoolArray | None = None
    entry: BoolArray | None = None
    notes: tuple[str, ...] = ()

    @classmethod
    def from_starts(
        cls,
        document: Document,
        starts: Sequence[int],
        counter: TokenCounter,
        leads: Callable[[list[str]], list[int]] | None = None,
    ) -> Units:
        """Units that are plain slices of the text.

        White space that ends a paragraph of several units is rendered when any of them is kept: paragraphs
        stay apart whatever goes.

        Args:
            document: what is cut.
            starts: where the slices start; ascending, from 0, without repeats.
            counter: of tokens.
            leads: slices -> the unit that leads each one, -1 for none.
        """
        text = document.text
        bounds = np.asarray([*starts, len(text)], dtype=np.int64)
        slices = [text[a:b] for a, b in pairwise(bounds.tolist())]
        n = len(slices)
        lead = leads(slices) if leads else [-1] * n
        pieces: list[str] = []
        owners: list[int] = []
        wrapper = np.full(n, -1, dtype=np.int64)
        last: list[int] = []  # unit of each paragraph
        paragraphs, first = 0, 0
        for unit, piece in enumerate(slices):
            body = piece.rstrip()
            if not piece.endswith("\n") or first == unit or not body:
                pieces.append(piece)
                owners.append(unit)
            else:
                wrapper[first : unit + 1] = paragraphs
                pieces += [body, piece[len(body) :]]
                owners += [unit, -1 - paragraphs]
                paragraphs += 1
                last.append(unit)
            if piece.endswith("\n"):
                first = unit + 1
        owner = np.asarray(owners, dtype=np.int64)
        lengths = np.fromiter(map(len, pieces), dtype=np.int64, count=len(pieces))
        edges = np.concatenate(([0], np.cumsum(lengths)))
        tokens = counts_between(counter.starts(text), edges)
        own = owner >= 0
        cost, wrapper_cost = np.zeros(n, dtype=np.int64), np.zeros(paragraphs, dtype=np.int64)
        np.add.at(cost, owner[own], tokens[own])
        np.add.at(wrapper_cost, -1 - owner[~own], tokens[~own])
        return cls(
            document=document,
            texts=slices,
            context=contexts(slices, lead),
            cost=cost,
            wrapper=wrapper,
            wrapper_parent=np.full(paragraphs, -1, dtype=np.int64),
            wrapper_cost=wrapper_cost,
            lead=np.asarray(lead, dtype=np.int64),
            pieces=Pieces(pieces, owner, edges[:-1], edges[1:]),
            range_start=edges[:-1],
            range_owner=np.where(own, owner, owner - 1),
            range_reason=[""] * len(pieces),
            separates=np.asarray(last, dtype=np.int64),
        )

    def __len__(self) -> int:
        return len(self.texts)

    def must_lead(self, unit: int, *, beside: bool = False) -> bool:
        """Whether a unit is not kept without its lead.

        Args:
            unit: which one.
            beside: whether others are kept, so that it could be read as if another of these led it.
        """
        up = int(self.lead[unit])
        if up < 0:
            return False
        term = self.term is not None and bool(self.term[up])
        return term or (beside and self.along is not None and bool(self.along[up]))

    def open_wrappers(self, keep: BoolArray) -> BoolArray:
        """Return which wrappers have a kept unit inside, bool [w]."""
        opened = np.zeros(len(self.wrapper_parent), dtype=bool)
        inner = self.wrapper[keep]
        opened[inner[inner >= 0]] = True
        for w in range(len(opened) - 1, -1, -1):  # parents come first, so children are settled before them
            if opened[w] and self.wrapper_parent[w] >= 0:
                opened[self.wrapper_parent[w]] = True
        if self.separates is not None and keep.any():
            opened &= self.separates < np.flatnonzero(keep)[-1]
        return opened

    def closed_wrappers(self, unit: int, opened: BoolArray, also: Collection[int] = ()) -> list[int]:
        """Return the wrappers around a unit, from the innermost, that are not open yet.

        Args:
            unit: which one.
            opened: bool [w], wrappers that are.
            also: further ones that are.
        """
        found: list[int] = []
        w = int(self.wrapper[unit])
        while w >= 0 and not opened[w] and w not in also:
            found.append(w)
            w = int(self.wrapper_parent[w])
        return found

    def tokens(self, keep: BoolArray) -> int:
        """Return what the units under a mask, bool [n], and the wrappers around them cost together."""
        return int(self.cost[keep].sum() + self.wrapper_cost[self.open_wrappers(keep)].sum())

    def piece_mask(self, keep: BoolArray) -> BoolArray:
        """Return which pieces are rendered when the units under ``keep``, bool [n], are kept."""
        owner = self.pieces.owner
        mask = np.zeros(len(owner), dtype=bool)
        own = owner >= 0
        mask[own] = keep[owner[own]]
        if len(self.wrapper_parent):
            mask[~own] = self.open_wrappers(keep)[-1 - owner[~own]]
        return mask


def contexts(texts: list[str], lead: list[int]) -> list[str]:
    """Headings above each unit, cut to a bounded length from the left: the nearest ones matter most."""
    context: list[str] = []
    for up in lead:
        if up < 0:
            context.append("")
        else:
            joined = f"{context[up]} {texts[up]}" if context[up] else texts[up]
            context.append(joined[-_CONTEXT:])
    return context
