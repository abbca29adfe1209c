"""(b) Share of the key sentences that survive at a token budget, counted on the output as emitted."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.html import data, methods
from benchmarks.html.context import Context
from benchmarks.html.measure import row_kept
from benchmarks.html.methods import Method
from tokenprune.bench.statistics import interval
from tokenprune.quality import reading, share_kept
from tokenprune.tokens import get_counter

Record = dict[str, Any]
TIMED_BUDGET = 1024


def key(set_name: str, question_id: str, method: Method) -> str:
    return f"{set_name}|{question_id}|{method.name}|{method.version}"


def measure(question: data.Question, method: Method, budgets: Sequence[int]) -> dict[str, Record]:
    """Run one method on one question; budget -> share, rows, tokens (and the error, which keeps nothing)."""
    count = get_counter().count
    records: dict[str, Record] = {}
    for budget, output in method.run(question.question, question.html, budgets).items():
        if isinstance(output, Exception):
            error = f"{type(output).__name__}: {output}"[:200]
            records[str(budget)] = {"share": 0.0, "rows": 0.0, "tokens": 0, "error": error}
            continue
        words = reading(output, method.form)
        records[str(budget)] = {
            "share": share_kept(words, question.key_sentences),
            "rows": row_kept(words, question.gold_rows) if question.gold_rows else None,
            "tokens": count(output),
        }
    return records


def run(context: Context) -> dict[str, Any]:
    if context.data is None:
        return {"skipped": "no data folder (set TOKENPRUNE_DATA)"}
    options, store = context.options, context.store("evidence")
    budgets = options.budgets
    result: dict[str, Any] = {"sets": {}, "methods": {m.name: m.label for m in context.methods}}
    for set_name in data.SETS:
        questions = data.questions(context.data, set_name, options.sample, options.seed)
        slow = min(len(questions), options.slow_sample)
        work = [(q, m) for i, q in enumerate(questions) for m in context.methods if i < slow or not m.slow]
        records: dict[str, dict[str, dict[str, Record]]] = {m.name: {} for m in context.methods}
        with methods.remembering():
            for question, method in context.track(work, len(work), f"evidence: {set_name}"):
                name = key(set_name, question.id, method)
                stored = store.get(name, {})
                missing = [b for b in budgets if str(b) not in stored]
                if missing:
                    stored = {**stored, **measure(question, method, missing)}
                    store.put(name, stored)
                records[method.name][question.id] = stored
        result["sets"][set_name] = {
            "questions": len(questions),
            "budgets": {str(b): summarise(records, context.methods, b) for b in budgets},
        }
    timed = {
        name: data.questions(context.data, name, options.timed, options.seed)
        for name in ("docs", "wikitables")
    }
    result["seconds"] = cold_seconds(context, [q for found in timed.values() for q in found])
    store.close()
    return result


def summarise(
    records: Mapping[str, Mapping[str, Mapping[str, Record]]], listed: Sequence[Method], budget: int
) -> list[dict[str, Any]]:
    """One row per method; differences are paired, against the best peer on the questions both have."""
    columns = {
        m.name: {q: r[str(budget)] for q, r in records[m.name].items()} for m in listed if records[m.name]
    }
    # By the mean on the questions that all peers have, so that a smaller sample is no advantage.
    peers = [m.name for m in listed if not m.ours and m.name in columns]
    common = set.intersection(*(set(columns[name]) for name in peers)) if peers else set()
    best = max(peers, key=lambda n: np.mean([columns[n][q]["share"] for q in common])) if common else None
    rows = []
    for method in listed:
        if method.name not in columns:
            continue
        column = columns[method.name]
        shares = [r["share"] for r in column.values()]
        row: dict[str, Any] = {
            "method": method.name,
            "ours": method.ours,
            "n": len(shares),
            "share": float(np.mean(shares)),
            "share_ci": interval(shares),
            "budget_use": float(np.mean([r["tokens"] / budget for r in column.values()])),
            "over_budget": float(np.mean([r["tokens"] > budget for r in column.values()])),
            "errors": sum("error" in r for r in column.values()),
        }
        kept_rows = [r["rows"] for r in column.values() if r["rows"] is not None]
        if kept_rows:
            row["rows"] = float(np.mean(kept_rows))
            row["rows_ci"] = interval(kept_rows)
        if best is not None and method.name != best:
            both = [q for q in column if q in columns[best]]
            gaps = [column[q]["share"] - columns[best][q]["share"] for q in both]
            row |= {"best_peer": best, "gain": float(np.mean(gaps)), "gain_ci": interval(gaps)}
        rows.append(row)
    return rows


def cold_seconds(context: Context, questions: Sequence[data.Question]) -> dict[str, Any]:
    """Seconds per page of each method at one budget, nothing remembered, in turns."""
    if not questions:
        return {}
    times: dict[str, list[float]] = {m.name: [] for m in context.methods}
    warm = questions[0]
    for method in context.methods:
        method.run(warm.question, warm.html, [TIMED_BUDGET])
    for question in context.track(questions, len(questions), "evidence: seconds per page"):
        for method in context.methods:
            methods.forget()
            begin = time.perf_counter()
            method.run(question.question, question.html, [TIMED_BUDGET])
            times[method.name].append(time.perf_counter() - begin)
    return {
        name: {"mean": statistics.fmean(v), "median": statistics.median(v), "max": max(v), "pages": len(v)}
        for name, v in times.items()
        if v and not math.isnan(v[0])
    }
