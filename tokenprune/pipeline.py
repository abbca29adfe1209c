"""The pipeline: routes documents to pruners by kind, spends one budget, collects receipts."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tokenprune.arrays import FloatArray
from tokenprune.budget import Budget
from tokenprune.document import Document
from tokenprune.errors import BudgetError, ConfigError, QueryError
from tokenprune.given_up import look
from tokenprune.job import Job, make_jobs
from tokenprune.pruners.base import Pruner
from tokenprune.receipt import PruneResult, Receipt
from tokenprune.registry import methods_for, without_query
from tokenprune.registry import pruner as build_pruner
from tokenprune.render.costs import priced
from tokenprune.score import ranks, score_rank_and_note, within
from tokenprune.select.partial import SMALL
from tokenprune.select.simple import ranking
from tokenprune.selection import Scored, above_floor, adaptive, by_pruner, with_floor, within_budget
from tokenprune.tokens import DEFAULT_TOKENIZER, TokenCounter, get_counter
from tokenprune.units import Units

_NOBODYS = (
    "no method here prunes {kind}: its beginning stays, as far as the budget goes; put one before that does "
    "({methods})"
)


class _Whole(NamedTuple):
    """Documents that fit, with everything kept."""

    jobs: list[Job]
    ranked: bool  # whether the result still depends on how they rank


@dataclass
class _Clock:
    stages: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def time(self, stage: str) -> Iterator[None]:
        look()
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.stages[stage] = self.stages.get(stage, 0.0) + time.perf_counter() - begin


class Pipeline:
    """Prunes documents for a question; the same input gives the same output. Safe to use from threads.

    A document goes, in order, through all pruners that accept its kind; a page that one of them wrote as
    Markdown or text is a text for those behind it. The last of them spends the budget; those before it use
    their own selectors. Of documents that fit the budget everything is kept: texts stay as they are, HTML is
    cleaned and written in the form asked for. A document that no pruner accepts passes unchanged (under a
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

    @property
    def prunes_nothing(self) -> bool:
        """Whether texts stay as they are, but for a budget that a call is given."""
        return self.budget.adaptive and all(p.name == "none" for p in self.pruners)

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
            DocumentError: two documents have the same id, or something is not a document or no list of them.
            BudgetError: the budget is not a `Budget`.
        """
        begin = time.perf_counter()
        clock = _Clock()
        budget = self.budget if budget is None else budget
        if not isinstance(budget, Budget):
            raise BudgetError(f"budget must be a Budget, not {type(budget).__name__}: Budget(max_tokens=...)")
        if not isinstance(query, str):
            raise QueryError(f"the query must be str, not {type(query).__name__}")
        with clock.time("count"):
            counter = self.counter
            jobs = make_jobs(documents, counter)
        before = sum(j.tokens_before for j in jobs)
        limit = budget.limit(before)
        whole = None if limit is None or before > limit else self._whole(jobs, limit, counter, clock)
        order: Sequence[int] = range(len(jobs))
        if whole is not None and not whole.ranked:
            for job, cleaned in zip(jobs, whole.jobs, strict=True):
                job.adopt(cleaned)
        else:
            scored, untouched = self._score(query, jobs, limit, counter, clock)
            order = _order(jobs, scored)
            if whole is not None:
                for job, cleaned in zip(jobs, whole.jobs, strict=True):
                    if not job.beaten:
                        job.adopt(cleaned)
                scored = [item for item in scored if item.job.beaten]
            elif limit is not None and sum(j.tokens_before for j in untouched) > 0:
                scored += self._cut(untouched, limit, counter, clock)
            else:
                for job in untouched:
                    job.leave("none", "no-pruner-for-kind")
            with clock.time("select"):
                masks = (
                    with_floor(scored, adaptive(scored, counter), jobs)
                    if limit is None
                    else within_budget(scored, limit, counter, in_part=True)
                )
            with clock.time("render"):
                for item, mask in zip(scored, masks, strict=True):
                    item.finish(mask, counter, "low-score" if limit is None else "over-budget")
        ordered = [jobs[n] for n in order]
        return PruneResult(
            documents=[j.current for j in ordered],
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

    def _whole(self, jobs: Sequence[Job], limit: int, counter: TokenCounter, clock: _Clock) -> _Whole | None:
        """Keep everything of documents that fit: HTML is cleaned and written in the form asked for.

        Nothing is scored for a question and no model is read.

        Returns:
            Finished copies of the jobs; None where they exceed the budget in that form.
        """
        copies: list[Job] = []
        ranked = dropping = False
        for job in jobs:
            copy = replace(job)
            copy.leave("none", "fits-budget")
            for pruner in self.pruners:
                if copy.current.kind not in pruner.kinds:
                    continue
                ranked = ranked or pruner.ranks
                page = copy.current.kind == "html"
                if page and not pruner.as_is:
                    with clock.time(f"segment:{pruner.name}"):
                        units = pruner.segmenter.segment(copy.current, counter)
                    scores, keep = np.full(len(units), np.nan), np.ones(len(units), dtype=bool)
                    dropped = "fits-budget"
                    if pruner.floor is not None and not pruner.uses_query:
                        # What it takes out goes whatever the budget: navigation of a short page, too.
                        with clock.time(f"score:{pruner.name}"):
                            scores = pruner.scorer.score("", [units])[0]
                        with clock.time("select"):
                            keep = above_floor(Scored(copy, pruner, units, scores))
                        dropped, dropping = "low-score", dropping or not keep.all()
                    with clock.time("render"):
                        copy.finish(pruner, units, scores, keep, counter, kept="fits-budget", dropped=dropped)
                if page and pruner.ends:
                    break
            copies.append(copy)
        if dropping and not any(copy.current.text.strip() for copy in copies):
            return None  # the selection knows what stays where nothing would
        return _Whole(copies, ranked) if sum(j.tokens_after for j in copies) <= limit else None

    def _score(
        self, query: str, jobs: Sequence[Job], limit: int | None, counter: TokenCounter, clock: _Clock
    ) -> tuple[list[Scored], list[Job]]:
        """Run all stages but the last selection; return what waits for it, and jobs no pruner accepted."""
        scored: list[Scored] = []
        accepted: set[int] = set()
        waiting: set[int] = set()  # for the selection
        for n, pruner in enumerate(self.pruners):
            mine = [j for j in jobs if j.current.kind in pruner.kinds and id(j) not in waiting]
            if not mine:
                continue
            if pruner.uses_query and not query.strip() and any(j.current.text.strip() for j in mine):
                raise QueryError(
                    f"the query is empty, but {pruner.name!r} prunes for a question: give one, or use a "
                    f"method that needs none ({', '.join(without_query())})"
                )
            accepted |= {id(j) for j in mine}
            with clock.time(f"segment:{pruner.name}"):
                units = [pruner.segmenter.segment(j.current, counter) for j in mine]
                ending = [self._is_last(n, u) for u in units]
                units = [
                    _for_budget(pruner, u, limit if last else None, counter)
                    for u, last in zip(units, ending, strict=True)
                ]
            with clock.time(f"score:{pruner.name}"):
                scorer = within(pruner.scorer, limit) if limit and any(ending) else pruner.scorer
                scores, ranked, said = score_rank_and_note(scorer, query, units)
            for job, segmented in zip(mine, units, strict=True):
                job.notes += said + segmented.notes
            items = [Scored(*row) for row in zip(mine, [pruner] * len(mine), units, scores, strict=True)]
            if pruner.ranks or ranks(scorer):
                _rank(items, ranked)
            final = [item for item, last in zip(items, ending, strict=True) if last]
            scored += final
            waiting |= {id(item.job) for item in final}
            early = [item for item, last in zip(items, ending, strict=True) if not last]
            with clock.time("select"):
                masks = with_floor(early, adaptive(early, counter), jobs, early=True)
            with clock.time("render"):
                for item, mask in zip(early, masks, strict=True):
                    item.finish(mask, counter, "low-score")
        return scored, [j for j in jobs if id(j) not in accepted]

    def _is_last(self, n: int, units: Units) -> bool:
        """Whether no pruner behind the n-th accepts what it makes of a document."""
        behind = self.pruners[n + 1 :]
        if not behind or (self.pruners[n].ends and units.document.kind == "html"):
            return True
        form = self.pruners[n].renderer.render(units, np.zeros(len(units), dtype=bool)).kind
        kind = form or units.document.kind
        return not any(kind in later.kinds for later in behind)

    def _cut(self, jobs: Sequence[Job], limit: int, counter: TokenCounter, clock: _Clock) -> list[Scored]:
        """Make documents that no pruner accepts take part in the budget, from the beginning on."""
        cutter = build_pruner("none")
        for job in jobs:
            kind = str(job.current.kind)
            job.notes += (_NOBODYS.format(kind=kind, methods=", ".join(methods_for(kind))),)
        with clock.time(f"segment:{cutter.name}"):
            segmented = [cutter.segmenter.segment(j.current, counter) for j in jobs]
            units = [_for_budget(cutter, u, limit, counter) for u in segmented]
        with clock.time(f"score:{cutter.name}"):
            scores = cutter.scorer.score("", units)
        return [Scored(j, cutter, u, s) for j, u, s in zip(jobs, units, scores, strict=True)]


def _rank(items: Sequence[Scored], ranked: FloatArray) -> None:
    """Note the rank scores of a pruner's documents, and which of them are not among its best."""
    for item, rank in zip(items, ranked.tolist(), strict=True):
        item.job.rank = None if rank != rank else rank
    if items and items[0].pruner.top_documents is not None:
        for n in ranking(np.nan_to_num(ranked, nan=-np.inf)).tolist()[items[0].pruner.top_documents :]:
            items[n].job.beaten = True


def _order(jobs: Sequence[Job], scored: Sequence[Scored]) -> Sequence[int]:
    """Positions of the documents in the result; those of a pruner that reorders change places among them."""
    order = list(range(len(jobs)))
    place = {id(job): n for n, job in enumerate(jobs)}
    for group in by_pruner(scored):
        if scored[group[0]].pruner.reorder:
            own = sorted(place[id(scored[n].job)] for n in group)
            found = np.asarray([-np.inf if (r := jobs[n].rank) is None else r for n in own])
            for here, there in zip(own, ranking(found).tolist(), strict=True):
                order[here] = own[there]
    return order


def _for_budget(pruner: Pruner, units: Units, limit: int | None, counter: TokenCounter) -> Units:
    """Price units; cut finer when a single one would not fit the budget, so that its best part can stay."""
    finer = getattr(pruner.segmenter, "finer", None)
    largest = max(limit, SMALL) if limit else 0  # pieces of a few words say nothing to a scorer
    if largest and finer is not None and len(units) and int(units.cost.max()) > largest:
        units = finer(largest).segment(units.document, counter)
    return priced(units, pruner.renderer, counter)
