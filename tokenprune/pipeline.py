"""The pipeline: routes documents to pruners by kind, spends one budget, collects receipts."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from tokenprune.arrays import BoolArray, FloatArray, IntArray
from tokenprune.budget import Budget, comparable
from tokenprune.document import Document
from tokenprune.errors import ConfigError, DocumentError, QueryError
from tokenprune.pruners.base import Pruner
from tokenprune.receipt import PruneResult, Receipt, UnitRecords, compose
from tokenprune.registry import pruner as build_pruner
from tokenprune.select.budget import fill
from tokenprune.tokens import DEFAULT_TOKENIZER, TokenCounter, counts_between, get_counter
from tokenprune.units import GONE, OffsetMap, Units


@dataclass
class _Job:
    """One document on its way through the pipeline."""

    original: Document
    starts: IntArray  # where its tokens start
    current: Document
    records: UnitRecords
    offsets: OffsetMap | None = None  # from `current` to the original; None: they are the same
    notes: tuple[str, ...] = ()
    tokens_after: int = 0

    @property
    def tokens_before(self) -> int:
        return len(self.starts)


@dataclass
class _Scored:
    """A document segmented and scored by its last pruner, waiting for the selection."""

    job: _Job
    pruner: Pruner
    units: Units
    scores: FloatArray


@dataclass
class _Clock:
    stages: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def time(self, stage: str) -> Iterator[None]:
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.stages[stage] = self.stages.get(stage, 0.0) + time.perf_counter() - begin


class Pipeline:
    """Prunes documents for a question; the same input gives the same output. Safe to use from threads.

    A document goes, in order, through all pruners that accept its kind. The last of them spends the budget;
    those before it use their own selectors. A document that no pruner accepts passes unchanged (under a
    budget it is cut at the end if it must be).
    """

    def __init__(
        self,
        pruners: Sequence[Pruner | str],
        *,
        budget: Budget | None = None,
        tokenizer: str = DEFAULT_TOKENIZER,
    ) -> None:
        """Put a pipeline together.

        Args:
            pruners: methods, or their names.
            budget: used when `prune` is given none; None is adaptive.
            tokenizer: whose tokens are counted (the serving model's): a named model, folder or hub name.

        Raises:
            ConfigError: no pruner is given.
            UnknownNameError: a name is unknown.
        """
        self.pruners = [build_pruner(p) if isinstance(p, str) else p for p in pruners]
        if not self.pruners:
            raise ConfigError("a pipeline needs at least one pruner; use 'none' to prune nothing")
        self.budget = budget or Budget()
        self.tokenizer = tokenizer

    @classmethod
    def from_config(cls, path: str | Path | None = None, name: str = "default") -> Pipeline:
        """Build a pipeline of a configuration file (see `tokenprune.config`)."""
        from tokenprune.config import load_config

        return load_config(None if path is None else str(path)).build(name)

    @property
    def counter(self) -> TokenCounter:
        """The token counter of this pipeline's tokenizer."""
        return get_counter(self.tokenizer)

    @property
    def uses_query(self) -> bool:
        """Whether the output depends on the question."""
        return any(p.uses_query for p in self.pruners)

    def prune(
        self, query: str, documents: Sequence[Document | str], budget: Budget | None = None
    ) -> PruneResult:
        """Prune documents for a question.

        Args:
            query: the user's question.
            documents: what to prune; strings become documents whose kind is guessed.
            budget: for all documents together; None takes the pipeline's.

        Raises:
            QueryError: the query is empty and a pruner that applies needs one.
            DocumentError: two documents have the same id.
        """
        begin = time.perf_counter()
        clock = _Clock()
        budget = budget or self.budget
        counter = self.counter
        with clock.time("count"):
            jobs = _jobs(documents, counter)
        before = sum(j.tokens_before for j in jobs)
        limit = budget.limit(before)
        if limit is not None and before <= limit:
            for job in jobs:
                _leave(job, "none", "fits-budget")
        else:
            self._require_query(query, jobs)
            scored, untouched = self._score(query, jobs, counter, clock)
            if limit is not None and sum(j.tokens_before for j in untouched) > 0:
                scored += self._cut(untouched, counter)
            else:
                for job in untouched:
                    _leave(job, "none", "no-pruner-for-kind")
            with clock.time("select"):
                masks = _adaptive(scored) if limit is None else _within(scored, limit, counter)
            with clock.time("render"):
                for item, mask in zip(scored, masks, strict=True):
                    _finish(item, mask, counter, "low-score" if limit is None else "over-budget")
        return PruneResult(
            documents=[j.current for j in jobs],
            receipts=[
                Receipt(str(j.original.id), j.records, j.tokens_before, j.tokens_after, j.notes) for j in jobs
            ],
            tokens_before=before,
            tokens_after=sum(j.tokens_after for j in jobs),
            seconds=time.perf_counter() - begin,
            stages=clock.stages,
            originals={str(j.original.id): j.original for j in jobs},
        )

    def _require_query(self, query: str, jobs: Sequence[_Job]) -> None:
        if query.strip():
            return
        kinds = {j.original.kind for j in jobs if j.original.text.strip()}
        for pruner in self.pruners:
            if pruner.uses_query and kinds & set(pruner.kinds):
                raise QueryError(
                    f"the query is empty, but {pruner.name!r} prunes for a question: give one, or use a "
                    "method that needs none (clean-html, none, random)"
                )

    def _score(
        self, query: str, jobs: Sequence[_Job], counter: TokenCounter, clock: _Clock
    ) -> tuple[list[_Scored], list[_Job]]:
        """Run all stages but the last selection; return what waits for it, and jobs no pruner accepted."""
        last = {
            id(job): n
            for job in jobs
            for n, pruner in enumerate(self.pruners)
            if job.original.kind in pruner.kinds
        }
        scored: list[_Scored] = []
        for n, pruner in enumerate(self.pruners):
            mine = [j for j in jobs if j.original.kind in pruner.kinds]
            if not mine:
                continue
            with clock.time(f"segment:{pruner.name}"):
                units = [pruner.segmenter.segment(j.current, counter) for j in mine]
            with clock.time(f"score:{pruner.name}"):
                scores = pruner.scorer.score(query, units)
            items = [_Scored(*row) for row in zip(mine, [pruner] * len(mine), units, scores, strict=True)]
            scored += [item for item in items if last[id(item.job)] == n]
            early = [item for item in items if last[id(item.job)] != n]
            for item, mask in zip(early, _adaptive(early), strict=True):
                _finish(item, mask, counter, "low-score")
        return scored, [j for j in jobs if id(j) not in last]

    def _cut(self, jobs: Sequence[_Job], counter: TokenCounter) -> list[_Scored]:
        """Make documents that no pruner accepts take part in the budget, from the beginning on."""
        cutter = build_pruner("none")
        units = [cutter.segmenter.segment(j.current, counter) for j in jobs]
        scores = cutter.scorer.score("", units)
        return [_Scored(j, cutter, u, s) for j, u, s in zip(jobs, units, scores, strict=True)]


def _jobs(documents: Sequence[Document | str], counter: TokenCounter) -> list[_Job]:
    jobs: list[_Job] = []
    seen: set[str] = set()
    for n, given in enumerate(documents):
        document = Document(given) if isinstance(given, str) else given
        if document.id is None:
            document = replace(document, id=f"doc{n}")
        if document.id in seen:
            raise DocumentError(f"two documents have the id {document.id!r}; ids must differ")
        seen.add(str(document.id))
        starts = counter.starts(document.text)
        records = UnitRecords.whole(len(document.text), len(starts), kept=True, stage="none", reason="")
        jobs.append(_Job(document, starts, document, records, tokens_after=len(starts)))
    return jobs


def _leave(job: _Job, stage: str, reason: str) -> None:
    """Give a document back as it came."""
    job.current, job.offsets, job.tokens_after = job.original, None, job.tokens_before
    length = len(job.original.text)
    job.records = UnitRecords.whole(length, job.tokens_before, kept=True, stage=stage, reason=reason)


def _groups(scored: Sequence[_Scored]) -> list[list[int]]:
    """Positions of the items of each pruner, in order of appearance."""
    groups: dict[int, list[int]] = {}
    for n, item in enumerate(scored):
        groups.setdefault(id(item.pruner), []).append(n)
    return list(groups.values())


def _join(arrays: Sequence[FloatArray]) -> FloatArray:
    return np.concatenate(arrays) if arrays else np.empty(0)


def _adaptive(scored: Sequence[_Scored]) -> list[BoolArray]:
    """Let each pruner's own selector decide; what leads a kept unit stays too."""
    masks: list[BoolArray] = [np.empty(0, dtype=bool)] * len(scored)
    for group in _groups(scored):
        items = [scored[n] for n in group]
        scores = _join([i.scores for i in items])
        cost = np.concatenate([i.units.cost for i in items])
        chosen = items[0].pruner.selector.select(scores, cost)
        bounds = np.cumsum([len(i.units) for i in items])[:-1]
        for n, item, mask in zip(group, items, np.split(chosen, bounds), strict=True):
            lead = item.units.lead
            for unit in range(len(mask) - 1, -1, -1):  # a lead never stands behind what it leads
                if mask[unit] and lead[unit] >= 0:
                    mask[lead[unit]] = True
            masks[n] = mask
    return masks


def _within(scored: Sequence[_Scored], limit: int, counter: TokenCounter) -> list[BoolArray]:
    """Share the budget among all documents by score."""
    groups = _groups(scored)
    joined = [_join([scored[n].scores for n in g]) for g in groups]
    costs = [np.concatenate([scored[n].units.cost for n in g]) for g in groups]
    scores: list[FloatArray] = [np.empty(0)] * len(scored)
    for group, values in zip(groups, comparable(joined, costs), strict=True):
        bounds = np.cumsum([len(scored[n].units) for n in group])[:-1]
        for n, part in zip(group, np.split(values, bounds), strict=True):
            scores[n] = part

    def count(n: int, mask: BoolArray) -> int:
        return counter.count(scored[n].pruner.renderer.render(scored[n].units, mask).text)

    return fill([s.units for s in scored], scores, limit, count)


def _finish(item: _Scored, keep: BoolArray, counter: TokenCounter, reason: str) -> None:
    """Render one document under its mask and write the receipt of this stage."""
    job, units, stage = item.job, item.units, item.pruner.name
    rendered = item.pruner.renderer.render(units, keep)
    tokens = counter.count(rendered.text)
    if tokens > job.tokens_before:  # end tags written out can make a tiny page longer than it was
        _leave(job, stage, "already-short")
        return
    owner = units.range_owner
    lost = owner == GONE
    score = np.full(len(owner), np.nan)
    score[~lost] = item.scores[owner[~lost]]
    kept = np.zeros(len(owner), dtype=bool)
    kept[~lost] = keep[owner[~lost]]
    bounds = np.append(units.range_start, len(units.document.text))
    reasons = tuple(
        why or ("kept" if k else reason) for why, k in zip(units.range_reason, kept.tolist(), strict=True)
    )
    records = UnitRecords(
        start=bounds[:-1],
        end=bounds[1:],
        tokens=np.zeros(len(owner), dtype=np.int64),
        score=score,
        kept=kept,
        stage=(stage,) * len(owner),
        reason=reasons,
    )
    if job.offsets is not None:
        records = compose(job.records, job.offsets, records, len(job.original.text))
    ends = np.append(records.start, len(job.original.text))
    tokens_of = counts_between(job.starts, ends) if len(records) else records.tokens
    job.records = replace(records, tokens=tokens_of)
    offsets = rendered.offsets
    if job.offsets is not None:
        before = job.offsets
        offsets = OffsetMap(
            offsets.out_start, before.to_source(offsets.src_start), before.to_source(offsets.src_end)
        )
    job.offsets = offsets
    job.current = job.original.with_text(rendered.text)
    job.tokens_after = tokens
