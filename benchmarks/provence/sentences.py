"""Sentence relevance: ROC-AUC per question, and the evidence kept at a share of the words."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmarks.common import scorers
from benchmarks.common.context import Context
from benchmarks.common.relevance import auc, recall_at, words_of
from benchmarks.common.scorers import Method
from benchmarks.provence.cases import cases
from tokenprune.bench.statistics import interval
from tokenprune.training.sets import Item

Record = dict[str, Any]


def measure(item: Item, method: Method, share: float) -> Record:
    """Score one question; recall and words are those at ``share`` of the words."""
    begin = time.perf_counter()
    scored = method.sentences(item.question, item.passages)
    seconds = time.perf_counter() - begin
    scores = np.concatenate(scored)
    labels = [label for p in item.passages for label in p.labels]
    if scores.shape != (len(labels),) or not np.isfinite(scores).all():
        raise ValueError(f"{method.name} gave {scores.shape} finite scores for {len(labels)} sentences")
    recall, words = recall_at(scores, labels, words_of(item.passages), share)
    return {"auc": auc(scores, labels), "recall": recall, "words": words, "seconds": seconds}


def run(context: Context) -> dict[str, Any]:
    if context.data is None:
        return {"skipped": "no data folder (set TOKENPRUNE_DATA)"}
    options, store = context.options, context.store("sentences")
    methods = scorers.available(options.methods, context.note)
    result: dict[str, Any] = {
        "methods": {m.name: {"label": m.label, "ours": m.ours} for m in methods},
        "share": options.share,
        "strict": options.strict,
        "sets": {},
    }
    for name in options.sets:
        items = [
            i for i in cases(context.data, name, options.sample, options.seed, options.strict) if _has_both(i)
        ]
        records: dict[str, list[Record]] = {m.name: [] for m in methods}
        work = [(item, m) for m in methods for item in items]
        for item, method in context.track(work, len(work), f"sentences: {name}"):
            key = f"{name}|{item.id}|{method.name}|{method.version}|{options.seed}|{options.share}"
            if key not in store:
                store.put(key, measure(item, method, options.share))
            records[method.name].append(store[key])
        result["sets"][name] = summarise(records, items)
    store.close()
    result["mean"] = mean_over_sets(result["sets"])
    return result


def _has_both(item: Item) -> bool:
    return len({label for p in item.passages for label in p.labels}) == 2


def summarise(records: Mapping[str, list[Record]], items: list[Item]) -> dict[str, Any]:
    """One row per method; questions without both classes were left out."""
    rows = {}
    for name, column in records.items():
        series = {f: [r[f] for r in column] for f in ("auc", "recall", "words", "seconds")}
        rows[name] = {f: float(np.mean(v)) if v else float("nan") for f, v in series.items()}
        rows[name] |= {f"{f}_ci": interval(series[f]) for f in ("auc", "recall")}
    sentences = [len(p.sentences) for i in items for p in i.passages]
    return {
        "questions": len(items),
        "sentences": sum(sentences) / max(1, len(items)),
        "positives": sum(sum(p.labels) for i in items for p in i.passages) / max(1, sum(sentences)),
        "rows": rows,
    }


def mean_over_sets(sets: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Every set counts the same; sets without questions do not count."""
    used = [s["rows"] for s in sets.values() if s["questions"]]
    names = used[0] if used else {}
    fields = ("auc", "recall", "words", "seconds")
    return {n: {f: float(np.mean([rows[n][f] for rows in used])) for f in fields} for n in names}
