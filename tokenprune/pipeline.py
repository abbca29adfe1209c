"""The pipeline: routes documents to pruners by kind, spends one budget, collects receipts."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path

import numpy as np

from tokenprune.arrays import BoolArray, FloatArray, IntArray
from tokenprune.budget import Budget, comparable
from tokenprune.document import Document
from tokenprune.errors import BudgetError, ConfigError, DocumentError, QueryError
from tokenprune.pruners.base import Pruner
from tokenprune.receipt import PruneResult, Receipt, UnitRecords, compose
from tokenprune.registry import pruner as build_pruner
from tokenprune.render.costs import priced
from tokenprune.score import ranks, score_and_rank, within
from tokenprune.select.budget import fill
from tokenprune.select.partial import use_up
from tokenprune.select.simple import KeepRatio, ranking
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
    rank: float | None = None
    beaten: bool = False  # in rank by enough others, so that nothing of it may stay

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
        pruners: Sequence[Pruner | str] | Pruner | str,
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
        given = [pruners] if isinstance(pruners, str | Pruner) else list(pruners)
        self.pruners = [build_pruner(p) if isinstance(p, str) else p for p in given]
        for p in self.pruners:
            if not isinstance(p, Pruner):
                raise ConfigError(f"a pipeline is made of pruners or their names, not {type(p).__name__}")
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
            DocumentError: two documents have the same id, or something is not a document.
            BudgetError: the budget is not a `Budget`.
        """
        begin = time.perf_counter()
        clock = _Clock()
        budget = self.budget if budget is None else budget
        if not isinstance(budget, Budget):
            raise BudgetError(f"budget must be a Budget, not {type(budget).__name__}: Budget(max_tokens=...)")
        if not isinstance(query, str):
            raise QueryError(f"the query must be str, not {type(query).__name__}")
        counter = self.counter
        with clock.time("count"):
            jobs = _jobs(documents, counter)
        before = sum(j.tokens_before for j in jobs)
        limit = budget.limit(before)
        fits = limit is not None and before <= limit
        order: Sequence[int] = range(len(jobs))
        if fits and not any(p.ranks and j.original.kind in p.kinds for p in self.pruners for j in jobs):
            for job in jobs:
                _leave(job, "none", "fits-budget")
        else:
            self._require_query(query, jobs)
            scored, untouched = self._score(query, jobs, limit, counter, clock)
            order = _order(jobs, scored)
            if fits:
                for job in [*untouched, *(item.job for item in scored if not item.job.beaten)]:
                    _leave(job, "none", "fits-budget")
                scored = [item for item in scored if item.job.beaten]
            elif limit is not None and sum(j.tokens_before for j in untouched) > 0:
                scored += self._cut(untouched, limit, counter)
            else:
                for job in untouched:
                    _leave(job, "none", "no-pruner-for-kind")
            with clock.time("select"):
                masks = (
                    _adaptive(scored, counter)
                    if limit is None
                    else _within(scored, limit, counter, in_part=True)
                )
            with clock.time("render"):
                for item, mask in zip(scored, masks, strict=True):
                    _finish(item, mask, counter, "low-score" if limit is None else "over-budget")
        ordered = [jobs[n] for n in order]
        return PruneResult(
            documents=[j.original.with_text(j.current.text) for j in ordered],
            receipts=[
                Receipt(str(j.original.id), j.records, j.tokens_before, j.tokens_after, j.notes, j.rank)
                for j in ordered
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
        self, query: str, jobs: Sequence[_Job], limit: int | None, counter: TokenCounter, clock: _Clock
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
                units = [
                    _segment(pruner, j.current, limit if last[id(j)] == n else None, counter) for j in mine
                ]
            with clock.time(f"score:{pruner.name}"):
                ending = [n == last[id(j)] for j in mine]
                scorer = within(pruner.scorer, limit) if limit and any(ending) else pruner.scorer
                scores, ranked = score_and_rank(scorer, query, units)
            items = [_Scored(*row) for row in zip(mine, [pruner] * len(mine), units, scores, strict=True)]
            if pruner.ranks or ranks(scorer):
                _rank(items, ranked)
            scored += [item for item in items if last[id(item.job)] == n]
            early = [item for item in items if last[id(item.job)] != n]
            for item, mask in zip(early, _adaptive(early, counter), strict=True):
                _finish(item, mask, counter, "low-score")
        return scored, [j for j in jobs if id(j) not in last]

    def _cut(self, jobs: Sequence[_Job], limit: int, counter: TokenCounter) -> list[_Scored]:
        """Make documents that no pruner accepts take part in the budget, from the beginning on."""
        cutter = build_pruner("none")
        units = [_segment(cutter, j.current, limit, counter) for j in jobs]
        scores = cutter.scorer.score("", units)
        return [_Scored(j, cutter, u, s) for j, u, s in zip(jobs, units, scores, strict=True)]


def _rank(items: Sequence[_Scored], ranked: FloatArray) -> None:
    """Note the rank scores of a pruner's documents, and which of them are not among its best."""
    for item, rank in zip(items, ranked.tolist(), strict=True):
        item.job.rank = None if rank != rank else rank
    if items and items[0].pruner.top_documents is not None:
        for n in ranking(np.nan_to_num(ranked, nan=-np.inf)).tolist()[items[0].pruner.top_documents :]:
            items[n].job.beaten = True


def _order(jobs: Sequence[_Job], scored: Sequence[_Scored]) -> Sequence[int]:
    """Positions of the documents in the result; those of a pruner that reorders change places among them."""
    order = list(range(len(jobs)))
    place = {id(job): n for n, job in enumerate(jobs)}
    for group in _groups(scored):
        if scored[group[0]].pruner.reorder:
            own = sorted(place[id(scored[n].job)] for n in group)
            found = np.asarray([-np.inf if (r := jobs[n].rank) is None else r for n in own])
            for here, there in zip(own, ranking(found).tolist(), strict=True):
                order[here] = own[there]
    return order


def _segment(pruner: Pruner, document: Document, limit: int | None, counter: TokenCounter) -> Units:
    """Cut a document; finer when a single unit would not fit the budget, so that its best part can stay."""
    units = pruner.segmenter.segment(document, counter)
    finer = getattr(pruner.segmenter, "finer", None)
    if limit and finer is not None and len(units) and int(units.cost.max()) > limit:
        units = finer(limit).segment(document, counter)
    return priced(units, pruner.renderer, counter)


def _jobs(documents: Sequence[Document | str], counter: TokenCounter) -> list[_Job]:
    if isinstance(documents, str | Document):
        raise DocumentError("documents must be a list of documents; put a single one in brackets")
    jobs: list[_Job] = []
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


def _adaptive(scored: Sequence[_Scored], counter: TokenCounter) -> list[BoolArray]:
    """Let each pruner's own selector decide; what leads a kept unit stays too."""
    masks: list[BoolArray] = [np.zeros(len(item.units), dtype=bool) for item in scored]
    for group in _groups(scored):
        selector = scored[group[0]].pruner.selector
        if isinstance(selector, KeepRatio):  # a budget like any other: exact, with all that units bring along
            items = [scored[n] for n in group]
            total = sum(int(i.units.cost.sum() + i.units.wrapper_cost.sum()) for i in items)
            chosen_masks = _within(items, Budget(keep_ratio=selector.ratio).limit(total) or 0, counter)
            for n, mask in zip(group, chosen_masks, strict=True):
                masks[n] = mask
            continue
        group = [n for n in group if not scored[n].job.beaten]
        items = [scored[n] for n in group]
        if not items:
            continue
        scores = _join([i.scores for i in items])
        cost = np.concatenate([i.units.cost for i in items])
        chosen = selector.select(scores, cost)
        bounds = np.cumsum([len(i.units) for i in items])[:-1]
        for n, item, mask in zip(group, items, np.split(chosen, bounds), strict=True):
            lead = item.units.lead
            for unit in range(len(mask) - 1, -1, -1):  # a lead never stands behind what it leads
                if mask[unit] and lead[unit] >= 0:
                    mask[lead[unit]] = True
            masks[n] = mask
    return masks


def _within(
    scored: Sequence[_Scored], limit: int, counter: TokenCounter, *, in_part: bool = False
) -> list[BoolArray]:
    """Share the budget among all documents by score; cut units ``in_part`` where it would stay unused."""
    groups = _groups(scored)
    joined = [_join([scored[n].scores for n in g]) for g in groups]
    costs = [np.concatenate([scored[n].units.cost for n in g]) for g in groups]
    scores: list[FloatArray] = [np.empty(0)] * len(scored)
    for group, values in zip(groups, comparable(joined, costs), strict=True):
        bounds = np.cumsum([len(scored[n].units) for n in group])[:-1]
        for n, part in zip(group, np.split(values, bounds), strict=True):
            floor = np.inf if scored[n].job.beaten else scored[n].pruner.floor
            scores[n] = part if floor is None else np.where(scored[n].scores < floor, -np.inf, part)

    def tokens(n: int, units: Units, mask: BoolArray) -> int:
        return counter.count(scored[n].pruner.renderer.render(units, mask).text)

    in_order = [item.pruner.in_order for item in scored]
    documents = [item.units for item in scored]
    masks = fill(documents, scores, limit, lambda n, mask: tokens(n, documents[n], mask), in_order)
    if in_part:
        documents, masks, cut = use_up(documents, scores, masks, limit, tokens, in_order)
        for item, units, parts in zip(scored, documents, cut, strict=True):
            item.units, item.scores = units, np.append(item.scores, item.scores[parts])
    return masks


def _finish(item: _Scored, keep: BoolArray, counter: TokenCounter, reason: str) -> None:
    """Render one document under its mask and write the receipt of this stage."""
    job, units, stage = item.job, item.units, item.pruner.name
    reason = "low-rank" if item.job.beaten else reason
    rendered = item.pruner.renderer.render(units, keep)
    tokens = counter.count(rendered.text)
    if tokens > job.tokens_before:  # end tags written out can make a tiny page longer than it was
        _leave(job, stage, "already-short")
        return
    owner = units.range_owner
    own, between = owner >= 0, owner < GONE
    score = np.full(len(owner), np.nan)
    score[own] = item.scores[owner[own]]
    kept = np.zeros(len(owner), dtype=bool)
    kept[own] = keep[owner[own]]
    if between.any():
        kept[between] = units.open_wrappers(keep)[GONE - 1 - owner[between]]
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
    # A later stage must not read plain text as markup again.
    job.current = replace(job.original, text=rendered.text, kind=rendered.kind or job.current.kind)
    job.tokens_after = tokens
