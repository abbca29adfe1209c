"""How well a small model expects the gold answer: mean NLL per token after a context.

The prompt is the model's chat template around one message of the user, ``Context:``, the context on lines of
its own, an empty line, ``Question:`` and the question (without context: the question line alone); the answer
is the assistant's turn.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.common.store import Store
from tokenprune.bench.statistics import interval
from tokenprune.errors import ModelError
from tokenprune.models.causal_lm import LoadedLM
from tokenprune.quality import answer_nll
from tokenprune.tokens import get_counter

MODEL = "smollm2-135m"


def messages(context: str, question: str) -> list[dict[str, str]]:
    asked = f"Context:\n{context}\n\nQuestion: {question}" if context else f"Question: {question}"
    return [{"role": "user", "content": asked}]


def stored_nll(
    store: Store, lm: LoadedLM, case: str, context: str, question: str, answer: str
) -> dict[str, float]:
    """Return NLL and tokens of a context; two methods that leave the same words need one forward.

    Args:
        store: where forwards that were done are kept.
        lm: a causal LM with a chat template.
        case: names the question and its answer.
        context: what a method left.
        question: as asked.
        answer: the gold answer.
    """
    digest = hashlib.sha1(context.encode("utf-8", "replace"), usedforsecurity=False).hexdigest()
    key = f"{case}|sha1:{digest}"
    if key not in store:
        nll = answer_nll(lm, messages(context, question), answer)
        if nll is None:
            raise ModelError(f"{case}: context and answer exceed the {lm.max_positions} tokens of {MODEL}")
        store.put(key, {"nll": nll, "tokens": get_counter().count(context)})
    found: dict[str, float] = store[key]
    return found


def summarise(
    values: Mapping[str, Mapping[str, Mapping[str, float]]], reference: str
) -> list[dict[str, Any]]:
    """One row per context; differences are paired, against ``reference`` (negative is better)."""
    rows = []
    for name, column in values.items():
        series: Sequence[float] = [v["nll"] for v in column.values()]
        row: dict[str, Any] = {
            "context": name,
            "n": len(series),
            "nll": float(np.mean(series)),
            "nll_ci": interval(series),
            "tokens": float(np.mean([v["tokens"] for v in column.values()])),
        }
        if reference in values and name != reference:
            gaps = [column[q]["nll"] - values[reference][q]["nll"] for q in column]
            row |= {"difference": float(np.mean(gaps)), "difference_ci": interval(gaps)}
        rows.append(row)
    return rows
