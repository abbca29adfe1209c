"""Receipts: what was kept and dropped of each document, and why; and the result that carries them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, overload

import numpy as np

from tokenprune.arrays import BoolArray, FloatArray, IntArray
from tokenprune.document import Document
from tokenprune.errors import DocumentError
from tokenprune.units import OffsetMap


class UnitRecord(NamedTuple):
    """What happened to one range of the original text."""

    start: int
    end: int
    tokens: int
    score: float
    kept: bool
    stage: str
    reason: str


@dataclass(frozen=True, eq=False)
class UnitRecords(Sequence[UnitRecord]):
    """A sequence of `UnitRecord`, held as columns of length n (integers int64, scores float64).

    Equal to another one of the same records; scores that are NaN are alike.
    """

    start: IntArray
    end: IntArray
    tokens: IntArray
    score: FloatArray
    kept: BoolArray
    stage: tuple[str, ...]
    reason: tuple[str, ...]

    @classmethod
    def whole(cls, length: int, tokens: int, *, kept: bool, stage: str, reason: str) -> UnitRecords:
        """One record for a whole text; none for an empty one."""
        n = 1 if length else 0
        return cls(
            start=np.zeros(n, dtype=np.int64),
            end=np.full(n, length, dtype=np.int64),
            tokens=np.full(n, tokens, dtype=np.int64),
            score=np.full(n, np.nan),
            kept=np.full(n, kept),
            stage=(stage,) * n,
            reason=(reason,) * n,
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, UnitRecords):
            return NotImplemented
        numbers = ((getattr(self, name), getattr(other, name)) for name in ("start", "end", "tokens", "kept"))
        return (
            all(np.array_equal(a, b) for a, b in numbers)
            and np.array_equal(self.score, other.score, equal_nan=True)
            and (self.stage, self.reason) == (other.stage, other.reason)
        )

    def __hash__(self) -> int:
        return hash((len(self), self.stage, self.reason))

    def __len__(self) -> int:
        return len(self.start)

    @overload
    def __getitem__(self, index: int) -> UnitRecord: ...
    @overload
    def __getitem__(self, index: slice) -> list[UnitRecord]: ...
    def __getitem__(self, index: int | slice) -> UnitRecord | list[UnitRecord]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        i = range(len(self))[index]
        return UnitRecord(
            int(self.start[i]),
            int(self.end[i]),
            int(self.tokens[i]),
            float(self.score[i]),
            bool(self.kept[i]),
            self.stage[i],
            self.reason[i],
        )

    def __iter__(self) -> Iterator[UnitRecord]:
        columns = (c.tolist() for c in (self.start, self.end, self.tokens, self.score, self.kept))
        for row in zip(*columns, self.stage, self.reason, strict=True):
            yield UnitRecord(*row)


def compose(before: UnitRecords, offsets: OffsetMap, after: UnitRecords, length: int) -> UnitRecords:
    """Express a later stage's records in the original, beside what earlier stages dropped.

    Args:
        before: records of the stages so far, over the original.
        offsets: from the text that the later stage saw to the original.
        after: records of the later stage, over the text it saw.
        length: of the original, in characters.

    Returns:
        Records that cover the original; token counts are left for the caller to fill in.
    """
    if not len(after):
        return before
    begin = offsets.to_source(after.start)
    begin[0] = 0
    gone = np.flatnonzero(~before.kept)
    edges = np.unique(np.concatenate((begin, before.start[gone], before.end[gone])))
    edges = edges[edges < length]
    later = np.maximum(np.searchsorted(begin, edges, side="right") - 1, 0)
    earlier = np.searchsorted(before.start, edges, side="right") - 1
    lost = ~before.kept[earlier]
    owner = np.where(lost, -1 - earlier, later)
    first = np.concatenate(([True], owner[1:] != owner[:-1]))
    edges, later, earlier, lost = edges[first], later[first], earlier[first], lost[first]
    pick = zip(lost.tolist(), earlier.tolist(), later.tolist(), strict=True)
    source = [(before, e) if gone_here else (after, n) for gone_here, e, n in pick]
    return UnitRecords(
        start=edges,
        end=np.append(edges[1:], length).astype(np.int64),
        tokens=np.zeros(len(edges), dtype=np.int64),
        score=np.where(lost, before.score[earlier], after.score[later]),
        kept=np.where(lost, False, after.kept[later]),
        stage=tuple(records.stage[i] for records, i in source),
        reason=tuple(records.reason[i] for records, i in source),
    )


@dataclass(frozen=True)
class Receipt:
    """What was kept and dropped of one document, in offsets of its original text, and why.

    The units cover the original without gap or overlap. ``tokens`` of a unit counts the tokens of the
    original that start inside it, so that they add up to ``tokens_before``. A score is NaN where nothing
    was scored. ``rank`` is the score of the document as a whole, None where nothing ranked it.
    """

    document_id: str
    units: UnitRecords
    tokens_before: int
    tokens_after: int
    notes: tuple[str, ...] = ()
    rank: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able mapping; NaN scores become None."""
        units = [
            {**u._asdict(), "score": None if u.score != u.score else round(u.score, 6)} for u in self.units
        ]
        return {
            "document_id": self.document_id,
            "tokens_before": self.tokens_before,
            "tokens_after": self.tokens_after,
            "rank": None if self.rank is None else round(self.rank, 6),
            "notes": list(self.notes),
            "units": units,
        }


@dataclass(frozen=True)
class PruneResult:
    """The pruned documents with their receipts.

    Attributes:
        documents: pruned documents with their ids, in input order unless a method was asked to reorder
            them; a document of which nothing is kept stays, with empty text.
        receipts: one per document, in the same order.
        tokens_before: tokens of all originals together.
        tokens_after: tokens of all outputs together.
        seconds: wall time of the whole call.
        stages: wall time per step: "count", "segment:NAME" and "score:NAME" of each pruner, "select",
            "render".

    Results are equal whatever time they took.
    """

    documents: list[Document]
    receipts: list[Receipt]
    tokens_before: int
    tokens_after: int
    seconds: float = field(compare=False)
    stages: dict[str, float] = field(compare=False)
    originals: dict[str, Document] = field(repr=False)

    def restore(self, document_id: str) -> str:
        """Return the original text of a document.

        Raises:
            DocumentError: there is no such id; the message lists those there are.
        """
        try:
            return self.originals[document_id].text
        except KeyError:
            known = ", ".join(self.originals)
            raise DocumentError(f"no document {document_id!r} in this result; ids: {known}") from None

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able mapping (originals are left out: `restore` gives them)."""
        return {
            "documents": [d.to_dict() for d in self.documents],
            "receipts": [r.to_dict() for r in self.receipts],
            "tokens_before": self.tokens_before,
            "tokens_after": self.tokens_after,
            "seconds": round(self.seconds, 6),
            "stages": {k: round(v, 6) for k, v in self.stages.items()},
        }


STEPS = ("count", "segment", "score", "select", "render")


def steps_of(results: Sequence[PruneResult]) -> dict[str, float]:
    """Return the wall time of results per kind of step (`STEPS`), seconds."""
    found = dict.fromkeys(STEPS, 0.0)
    for result in results:
        for stage, seconds in result.stages.items():
            step = stage.partition(":")[0]
            found[step] = found.get(step, 0.0) + seconds
    return found
