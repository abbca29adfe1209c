"""A document on its way through the stages of a pipeline, and the receipt that grows with it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count

import numpy as np

from tokenprune.arrays import BoolArray, FloatArray, IntArray
from tokenprune.document import Document
from tokenprune.errors import DocumentError
from tokenprune.pruners.base import Pruner
from tokenprune.receipt import UnitRecords, compose
from tokenprune.tokens import TokenCounter, counts_between
from tokenprune.units import GONE, OffsetMap, Rendered, Units


@dataclass
class Job:
    """One document on its way through the pipeline.

    Attributes:
        original: as it was given.
        starts: int64 [tokens], where the tokens of the original start.
        current: what the stages so far made of it; its kind says what its text is now.
        records: what they did, in offsets of the original.
        offsets: from `current` to the original; None: they are the same.
        tokens_after: of `current`.
        rank: its score among the documents, None where nothing ranked it.
        beaten: in rank by enough others, so that nothing of it may stay.
    """

    original: Document
    starts: IntArray
    current: Document
    records: UnitRecords
    offsets: OffsetMap | None = None
    notes: tuple[str, ...] = ()
    tokens_after: int = 0
    rank: float | None = None
    beaten: bool = False

    @property
    def tokens_before(self) -> int:
        """Tokens of the original."""
        return len(self.starts)

    def leave(self, stage: str, reason: str) -> None:
        """Give the document back as it came."""
        self.current, self.offsets, self.tokens_after = self.original, None, self.tokens_before
        length = len(self.original.text)
        self.records = UnitRecords.whole(length, self.tokens_before, kept=True, stage=stage, reason=reason)

    def adopt(self, other: Job) -> None:
        """Take over what the stages made of a copy of this job."""
        self.current, self.offsets, self.tokens_after = other.current, other.offsets, other.tokens_after
        self.records = other.records

    def finish(
        self,
        pruner: Pruner,
        units: Units,
        scores: FloatArray,
        keep: BoolArray,
        counter: TokenCounter,
        *,
        kept: str = "kept",
        dropped: str,
    ) -> None:
        """Render the document under a mask and write the receipt of this stage.

        Args:
            pruner: the stage.
            units: of `current`.
            scores: float64 [n].
            keep: bool [n].
            counter: of tokens.
            kept: the reason of units that stay.
            dropped: the reason of units that go.
        """
        rendered = pruner.renderer.render(units, keep)
        tokens = counter.count(rendered.text)
        # End tags written out can make a tiny page longer than it was.
        if tokens > self.tokens_before and not self._is_changed(units, rendered):
            self.leave(pruner.name, "already-short" if kept == "kept" else kept)
            return
        records = _records(pruner.name, units, scores, keep, kept, "low-rank" if self.beaten else dropped)
        if self.offsets is not None:
            records = compose(self.records, self.offsets, records, len(self.original.text))
        ends = np.append(records.start, len(self.original.text))
        tokens_of = counts_between(self.starts, ends) if len(records) else records.tokens
        self.records = replace(records, tokens=tokens_of)
        offsets = rendered.offsets
        if self.offsets is not None:
            before = self.offsets
            offsets = OffsetMap(
                offsets.out_start, before.to_source(offsets.src_start), before.to_source(offsets.src_end)
            )
        self.offsets = offsets
        # A later stage must not read plain text as markup again.
        self.current = replace(self.original, text=rendered.text, kind=rendered.kind or self.current.kind)
        self.tokens_after = tokens

    def _is_changed(self, units: Units, rendered: Rendered) -> bool:
        """Whether the original would bring back what cleaning took, or is not in the form asked for."""
        if self.original.kind != "html":
            return False
        cleaned = any(why not in ("", "empty") for why in units.range_reason)
        return cleaned or rendered.kind is not None or self.offsets is not None


def _records(
    stage: str, units: Units, scores: FloatArray, keep: BoolArray, kept_reason: str, dropped_reason: str
) -> UnitRecords:
    """What one stage did, in offsets of the text that it saw; tokens are filled in later."""
    owner = units.range_owner
    own, between = owner >= 0, owner < GONE
    score = np.full(len(owner), np.nan)
    score[own] = scores[owner[own]]
    kept = np.zeros(len(owner), dtype=bool)
    kept[own] = keep[owner[own]]
    if between.any():
        kept[between] = units.open_wrappers(keep)[GONE - 1 - owner[between]]
    bounds = np.append(units.range_start, len(units.document.text))
    return UnitRecords(
        start=bounds[:-1],
        end=bounds[1:],
        tokens=np.zeros(len(owner), dtype=np.int64),
        score=score,
        kept=kept,
        stage=(stage,) * len(owner),
        reason=tuple(
            why or (kept_reason if k else dropped_reason)
            for why, k in zip(units.range_reason, kept.tolist(), strict=True)
        ),
    )


def make_jobs(documents: Sequence[Document | str], counter: TokenCounter) -> list[Job]:
    """Return a job for each document; strings become documents, and what has no id is numbered.

    Raises:
        DocumentError: two documents have the same id, or something is not a document.
    """
    if isinstance(documents, str | Document):
        raise DocumentError("documents must be a list of documents; put a single one in brackets")
    if not isinstance(documents, Iterable) or isinstance(documents, Mapping | bytes):
        raise DocumentError(f"documents must be a list of documents, not {type(documents).__name__}")
    documents = list(documents)  # a generator could be gone through once only
    jobs: list[Job] = []
    taken = {d.id for d in documents if isinstance(d, Document)}
    seen: set[str] = set()
    for n, given in enumerate(documents):
        document = Document(given) if isinstance(given, str) else given
        if not isinstance(document, Document):
            raise DocumentError(f"documents must be Document or str, not {type(given).__name__}")
        if document.id is None:
            free = (f"doc{n}-{k}" if k else f"doc{n}" for k in count())
            document = replace(document, id=next(i for i in free if i not in taken and i not in seen))
        if document.id in seen:
            raise DocumentError(f"two documents have the id {document.id!r}; ids must differ")
        seen.add(str(document.id))
        starts = counter.starts(document.text)
        records = UnitRecords.whole(len(document.text), len(starts), kept=True, stage="none", reason="")
        jobs.append(Job(document, starts, document, records, tokens_after=len(starts)))
    return jobs
