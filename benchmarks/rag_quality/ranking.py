"""nDCG of the passages' scores: does the pass that prunes also rerank?"""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.common import scorers
from benchmarks.common.context import Context
from benchmarks.common.relevance import ndcg
from benchmarks.rag_quality import contexts
from tokenprune.bench.statistics import interval

SETS = ("nq20", "pubmedqa10")
K = 5
REFERENCE = "minilm"


def run(context: Context) -> dict[str, Any]:
    if context.data is None:
        return {"skipped": "no data folder (set TOKENPRUNE_DATA)"}
    options, store = context.options, context.store("scores")
    methods = scorers.available(options.methods, context.note)
    result: dict[str, Any] = {"k": K, "sets": {}}
    for name in SETS:
        items = contexts.items(context.data, name, options.ranked, options.seed)
        values: dict[str, list[float]] = {m.name: [] for m in methods}
        work = [(item, m) for m in methods for item in items]
        for item, method in context.track(work, len(work), f"ranking: {name}"):
            _, ranks = contexts.scores(store, item, method)
            values[method.name].append(ndcg(ranks, [int(p.relevant) for p in item.passages], K))
        result["sets"][name] = []
        for method in methods:
            column = values[method.name]
            row = {"method": method.label, "ours": method.ours, "n": len(column)}
            row |= {"ndcg": float(np.mean(column)), "ndcg_ci": interval(column)}
            if REFERENCE in values and method.name != REFERENCE:
                gaps = np.subtract(column, values[REFERENCE]).tolist()
                row |= {"difference": float(np.mean(gaps)), "difference_ci": interval(gaps)}
            result["sets"][name].append(row)
    store.close()
    return result
