"""Compression against evidence kept and the answer's NLL: thresholds of a labeler, budgets of the others."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.common import scorers
from benchmarks.common.context import Context
from benchmarks.common.nll import MODEL, stored_nll
from benchmarks.rag_quality import contexts
from benchmarks.rag_quality.answers import SET
from tokenprune.models.causal_lm import load_causal_lm
from tokenprune.tokens import get_counter


def run(context: Context) -> dict[str, Any]:
    if context.data is None:
        return {"skipped": "no data folder (set TOKENPRUNE_DATA)"}
    options, store, known = context.options, context.store("answers"), context.store("scores")
    methods = [m for m in scorers.available(options.methods, context.note) if m.name != "random"]
    lm = load_causal_lm(MODEL)
    items = contexts.items(context.data, SET, options.sweep_sample, options.seed)
    curves: dict[str, Any] = {
        f"{m.label}: {kind}": {"ours": m.ours, "kind": kind, "method": m.name, "points": points}
        for m in methods
        for kind, points in (("share", options.shares), ("threshold", options.thresholds))
        if kind == "share" or m.ours
    }
    seen: dict[tuple[str, float], list[dict[str, float]]] = {}
    by_name = {m.name: m for m in methods}
    for item in context.track(items, len(items), "sweep"):
        marks, passages = contexts.evidence(item), item.passages
        full = get_counter().count(contexts.render(passages, contexts.whole(passages)))
        for label, curve in curves.items():
            sentences, _ = contexts.scores(known, item, by_name[curve["method"]])
            for point in curve["points"]:
                if curve["kind"] == "share":
                    keep = contexts.within(passages, sentences, int(point * full))
                else:
                    keep = contexts.above(sentences, point)
                text = contexts.render(passages, keep)
                value = stored_nll(store, lm, f"{SET}|{item.id}", text, item.question, item.answers[0])
                row = value | {"compression": 1 - value["tokens"] / full}
                share = contexts.evidence_kept(marks, keep)
                seen.setdefault((label, point), []).append(
                    row if share is None else row | {"evidence": share}
                )
    store.close()
    known.close()
    for label, curve in curves.items():
        curve["points"] = [{"at": p, **_means(seen[label, p])} for p in curve["points"]] if items else []
    return {"n": len(items), "curves": curves}


def _means(rows: list[dict[str, float]]) -> dict[str, float]:
    fields = ("nll", "tokens", "compression", "evidence")
    return {f: float(np.mean([row[f] for row in rows if f in row] or [np.nan])) for f in fields}
