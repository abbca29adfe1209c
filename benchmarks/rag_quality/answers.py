"""How well the model expects the gold answer after the context that a method leaves (nq20, 20 passages).

Prompt: see benchmarks/common/nll.py and contexts.py; the answer is the first gold answer. A reference run of
the project on other items of the kind: none 5.13, full 3.60, gold passage 2.15, MiniLM top-5 2.93, MiniLM
sentences at 25% of the tokens 2.89, five random passages 4.80.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.common import scorers
from benchmarks.common.context import Context
from benchmarks.common.nll import MODEL, stored_nll, summarise
from benchmarks.common.scorers import Method
from benchmarks.common.store import Store
from benchmarks.rag_quality import contexts
from tokenprune.models.causal_lm import load_causal_lm
from tokenprune.tokens import get_counter
from tokenprune.training.sets import Item

SET = "nq20"
PASSAGES = 5
REFERENCE = "MiniLM cosine: sentences at 25%"


def compared(
    item: Item, methods: list[Method], store: Store, share: float, threshold: float, seed: int
) -> dict[str, contexts.Masks | None]:
    """Return what each context keeps of an item; None keeps nothing."""
    passages = item.passages
    budget = int(share * get_counter().count(contexts.render(passages, contexts.whole(passages))))
    picked = np.random.default_rng(seed).permutation(len(passages))[:PASSAGES]
    found: dict[str, contexts.Masks | None] = {
        "none": None,
        "full": contexts.whole(passages),
        "gold passage": contexts.whole(passages, [i for i, p in enumerate(passages) if p.relevant]),
        f"{PASSAGES} random passages": contexts.whole(passages, picked),
    }
    for method in methods:
        sentences, ranks = contexts.scores(store, item, method)
        if method.name == "minilm" or method.ours:
            found[f"{method.label}: top {PASSAGES} passages"] = contexts.top(passages, ranks, PASSAGES)
        found[f"{method.label}: sentences at {share:.0%}"] = contexts.within(passages, sentences, budget)
        if method.ours:
            found[f"{method.label}: above {threshold:g}"] = contexts.above(sentences, threshold)
    return found


def run(context: Context) -> dict[str, Any]:
    if context.data is None:
        return {"skipped": "no data folder (set TOKENPRUNE_DATA)"}
    options, store, known = context.options, context.store("answers"), context.store("scores")
    methods = scorers.available(options.methods, context.note)
    lm = load_causal_lm(MODEL)
    items = contexts.items(context.data, SET, options.sample, options.seed)
    values: dict[str, dict[str, dict[str, float]]] = {}
    kept: dict[str, list[float]] = {}
    for item in context.track(items, len(items), "answers"):
        marks = contexts.evidence(item)
        found = compared(item, methods, known, options.share, options.threshold, options.seed)
        for name, keep in found.items():
            text = contexts.render(item.passages, keep) if keep is not None else ""
            value = stored_nll(store, lm, f"{SET}|{item.id}", text, item.question, item.answers[0])
            values.setdefault(name, {})[item.id] = value
            share = contexts.evidence_kept(marks, keep) if keep is not None else 0.0
            kept.setdefault(name, []).extend([] if share is None else [share])
    store.close()
    known.close()
    rows = summarise(values, REFERENCE)
    ours = {m.label for m in methods if m.ours}
    for row in rows:
        row["evidence"] = float(np.mean(kept[row["context"]])) if kept[row["context"]] else float("nan")
        row["ours"] = row["context"].partition(":")[0] in ours
    return {"model": MODEL, "rows": rows, "reference": REFERENCE}
