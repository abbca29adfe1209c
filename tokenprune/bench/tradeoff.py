"""What each method leaves under each budget (tokens, evidence, likelihood of the answer); what to choose."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from tokenprune.bench.case import Case
from tokenprune.bench.source import question_turn
from tokenprune.bench.statistics import ENOUGH, interval
from tokenprune.budget import Budget
from tokenprune.document import Document
from tokenprune.errors import BudgetError, ConfigError
from tokenprune.models.labeler.cache import forget_all
from tokenprune.models.progress import SILENT, Reporter
from tokenprune.pipeline import Pipeline
from tokenprune.quality import answer_nll, reading, share_kept
from tokenprune.tokens import TokenCounter

if TYPE_CHECKING:
    from tokenprune.models.causal_lm import LoadedLM

FULL = "full"  # nothing pruned: what everything else is compared with
WARM = "Warm?"  # what every method is asked first
ADAPTIVE = "adaptive"  # no budget: the method decides
NEAR = 0.02  # share of the evidence that a cheaper choice may lose
# Where nobody knows the evidence, the gold answer's likelihood may get worse by so many nats per token.
NEAR_NLL = 0.05
# Budgets are filled to within a few tokens: that share fewer makes no row better than another.
SAME_TOKENS = 0.02


class Pruned(Protocol):
    """What is read of a result; see `tokenprune.PruneResult`."""

    @property
    def documents(self) -> Sequence[Document]:
        """What is left."""

    @property
    def tokens_before(self) -> int:
        """Of what was given."""

    @property
    def tokens_after(self) -> int:
        """Of what is left."""

    @property
    def seconds(self) -> float:
        """That it took."""


class Prunes(Protocol):
    """What can be measured: a `Pipeline`, or a package that is compared with it."""

    @property
    def counter(self) -> TokenCounter:
        """Counts the tokens of all methods of a run."""
        ...

    def prune(self, query: str, documents: Sequence[Document], budget: Budget | None = None) -> Pruned:
        """Return what is left of the documents of one request."""
        ...


@dataclass(frozen=True)
class Item:
    """A case and what of it may be pruned."""

    case: Case
    documents: tuple[Document, ...]


@dataclass(frozen=True)
class Row:
    """Means over the cases of one method under one budget.

    Attributes:
        method: its name.
        budget: as it was asked for: a share, a number of tokens, ``adaptive``; ``-`` of the full context.
        cases: that were measured.
        kept: mean share of the documents' tokens.
        tokens: mean tokens kept.
        evidence: mean share of the evidence kept; None where no case has any.
        evidence_interval: bootstrap 95 %; None for fewer than `ENOUGH` cases.
        seconds: median of the prune time at the method's first budget: models remember what they read, so
            that the later ones would look faster than they are.
        nll: mean nats per token of the first gold answer, over the cases that have one in every row; None
            where it was not measured.
        nll_interval: as for the evidence.
        prefill_seconds: predicted for the tokens kept, None without a model and a device.
        pareto: no other row keeps fewer tokens and as much evidence (where unknown: as good an NLL), or more
            of it with about as many tokens (within `SAME_TOKENS`).
    """

    method: str
    budget: str
    cases: int
    kept: float
    tokens: float
    evidence: float | None
    evidence_interval: tuple[float, float] | None
    seconds: float
    nll: float | None = None
    nll_interval: tuple[float, float] | None = None
    prefill_seconds: float | None = None
    pareto: bool = False

    @property
    def label(self) -> str:
        """Method and budget."""
        return self.method if self.method == FULL else f"{self.method} @ {self.budget}"


@dataclass(frozen=True)
class Tradeoff:
    """All rows, in the order asked for, and the choice that the rule makes."""

    rows: list[Row]
    recommended: str | None
    rule: str

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able mapping."""
        return {"rows": [asdict(r) for r in self.rows], "recommended": self.recommended, "rule": self.rule}


def parse_budget(text: str) -> tuple[str, Budget]:
    """Read a budget: a share of the tokens (with a point: ``0.25``), a number of tokens, or ``adaptive``.

    Raises:
        ConfigError: it is none of them.
    """
    text = text.strip()
    if text == ADAPTIVE:
        return text, Budget()  # whatever a pipeline is configured with
    try:
        return text, Budget(keep_ratio=float(text)) if "." in text else Budget(max_tokens=int(text))
    except (ValueError, BudgetError):
        raise ConfigError(
            f"{text!r} is no budget: give a share such as 0.25, a number of tokens such as 512, or {ADAPTIVE}"
        ) from None


def measure(
    items: Sequence[Item],
    methods: Mapping[str, Prunes],
    budgets: Sequence[tuple[str, Budget]],
    lm: LoadedLM | None = None,
    predict: Callable[[int], float] | None = None,
    reporter: Reporter = SILENT,
) -> Tradeoff:
    """Prune every case by every method under every budget.

    Args:
        items: at least one with documents.
        methods: name -> pipeline without a budget of its own, or another package; `FULL` is measured in any
            case.
        budgets: what `parse_budget` returns.
        lm: scores the gold answers, after the kept documents written as RAG applications do.
        predict: prompt tokens -> seconds of prefill.
        reporter: told of the progress.

    Raises:
        ConfigError: no case has a document, or a method is called as the full context is.
    """
    if FULL in methods:
        raise ConfigError(f"{FULL!r} is the row of the whole context: give the method another name")
    items = [item for item in items if any(d.text.strip() for d in item.documents)]
    if not items:
        raise ConfigError("no case has a document to prune: name a workload with context")
    counter = next(iter(methods.values())).counter if methods else None
    reporter.stage("prune", len(items) * (1 + len(methods) * len(budgets)))
    runs: list[tuple[str, str, Prunes | None, Budget | None]] = [(FULL, "-", None, None)]
    runs += [(m, label, p, b) for m, p in methods.items() for label, b in budgets]
    whole = Pipeline(["none"], tokenizer=counter.name) if counter is not None else Pipeline(["none"])
    found: list[list[_Found]] = []
    seconds: dict[str, float] = {}
    for method, _, pipeline, budget in runs:
        found.append([])
        if pipeline is not None and method not in seconds:
            # Loads the models, so that no case waits for them.
            kinds = dict.fromkeys(d.kind for item in items for d in item.documents)
            warm = [Document("It is warm. It is cold.", kind=k) for k in kinds]
            pipeline.prune(WARM, warm, Budget(keep_ratio=0.5))  # of what fits nothing would be scored
            # Its time is that of its first budget: what the methods before it read must not help it.
            forget_all()
            pipeline.counter.forget()
        for item in items:
            found[-1].append(_one(item, pipeline, whole, budget, lm))
            reporter.advance(1)
        seconds.setdefault(method, float(np.median([f.seconds for f in found[-1]])))
    # A prompt too long for the model has no NLL: means are of the cases that have one everywhere.
    scored = [n for n in range(len(items)) if all(column[n].nll is not None for column in found)]
    return conclude(
        [
            _row(method, label, seconds[method], column, [column[n].nll for n in scored], predict)
            for (method, label, _, _), column in zip(runs, found, strict=True)
        ]
    )


@dataclass(frozen=True)
class _Found:
    before: int
    after: int
    seconds: float
    evidence: float | None
    nll: float | None


def _one(
    item: Item, pipeline: Prunes | None, whole: Pipeline, budget: Budget | None, lm: LoadedLM | None
) -> _Found:
    case = item.case
    if pipeline is None:
        before = after = int(whole.counter.count_many([d.text for d in item.documents]).sum())
        documents, seconds = list(item.documents), 0.0
    else:
        result = pipeline.prune(case.question, item.documents, budget)
        documents, seconds = list(result.documents), result.seconds
        before, after = result.tokens_before, result.tokens_after
    evidence = None
    if case.evidence:
        words = " ".join(reading(d.text, "html" if d.kind == "html" else "text") for d in documents)
        evidence = share_kept(words, case.evidence)
    nll = None
    if lm is not None and case.answers:
        kept = [d for d in documents if d.text.strip()]
        turn = question_turn(kept, case.question).message() if kept else {
            "role": "user", "content": f"Question: {case.question}"
        }  # fmt: skip
        nll = answer_nll(lm, [turn], case.answers[0])
    return _Found(before, after, seconds, evidence, nll)


def _row(
    method: str,
    label: str,
    seconds: float,
    found: Sequence[_Found],
    scored: Sequence[float | None],
    predict: Callable[[int], float] | None,
) -> Row:
    evidence = [f.evidence for f in found if f.evidence is not None]
    nll = [value for value in scored if value is not None]
    return Row(
        method=method,
        budget=label,
        cases=len(found),
        kept=float(np.mean([f.after / max(1, f.before) for f in found])),
        tokens=float(np.mean([f.after for f in found])),
        evidence=float(np.mean(evidence)) if evidence else None,
        evidence_interval=interval(evidence) if len(evidence) >= ENOUGH else None,
        seconds=seconds,
        nll=float(np.mean(nll)) if nll else None,
        nll_interval=interval(nll) if len(nll) >= ENOUGH else None,
        prefill_seconds=float(np.mean([predict(f.after) for f in found])) if predict else None,
    )


def _goodness(row: Row) -> float | None:
    """What is worth keeping, more is better: evidence, else likelihood of the answer."""
    if row.evidence is not None:
        return row.evidence
    return None if row.nll is None or not math.isfinite(row.nll) else -row.nll


def conclude(rows: Sequence[Row]) -> Tradeoff:
    """Mark the rows that nothing beats, and choose one by the rule that `Tradeoff.rule` states."""
    good = [_goodness(row) for row in rows]
    marked = [replace(row, pareto=_unbeaten(n, rows, good)) for n, row in enumerate(rows)]
    known = [g for g in good if g is not None]
    if not known:
        return Tradeoff(marked, None, "No case has evidence or a measured answer: nothing to choose by.")
    by_evidence = any(row.evidence is not None for row in rows)
    top = max(known) - (NEAR if by_evidence else NEAR_NLL)
    near = [r for r, g in zip(marked, good, strict=True) if g is not None and g >= top]
    chosen = min(near, key=lambda r: (r.tokens, r.seconds))
    margin = (
        f"evidence within {NEAR:.0%} of the best"
        if by_evidence
        else f"an NLL within {NEAR_NLL} nats of the best"
    )
    rule = f"Of all rows with {margin}, the one that keeps the fewest tokens; of equals the fastest."
    return Tradeoff(marked, chosen.label, rule)


def _unbeaten(n: int, rows: Sequence[Row], good: Sequence[float | None]) -> bool:
    mine = good[n]
    if mine is None:
        return False
    for m, (row, other) in enumerate(zip(rows, good, strict=True)):
        if m == n or other is None:
            continue
        fewer = other >= mine and row.tokens < rows[n].tokens
        if fewer or (other > mine and row.tokens <= rows[n].tokens * (1 + SAME_TOKENS)):
            return False
    return True
