"""Figures of a ranking of sentences or passages: ROC-AUC, evidence recall, nDCG. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import ndcg_score, roc_auc_score

from tokenprune.training.sets import Passage

Floats = NDArray[np.float64]


def auc(scores: Floats, labels: Sequence[int]) -> float | None:
    """ROC-AUC of the sentences of one question, ties count half; None when all labels are the same."""
    return float(roc_auc_score(labels, scores)) if len(set(labels)) == 2 else None


def best_first(scores: Floats, costs: Sequence[int], budget: float) -> NDArray[np.bool_]:
    """Return the best units, bool [n], until they reach the budget: the unit that reaches it is the last.

    Equal scores go in document order.
    """
    order = np.argsort(-scores, kind="stable")
    before = np.concatenate(([0], np.cumsum(np.asarray(costs, dtype=np.float64)[order])[:-1]))
    kept = np.zeros(len(scores), dtype=bool)
    kept[order[before < budget]] = True
    return kept


def best_within(scores: Floats, costs: Sequence[int], budget: float) -> NDArray[np.bool_]:
    """Return the best units that fit in the budget, bool [n]: one that does not fit is passed over."""
    kept = np.zeros(len(scores), dtype=bool)
    left = budget
    for i in np.argsort(-scores, kind="stable").tolist():
        if costs[i] <= left:
            kept[i] = True
            left -= costs[i]
    return kept


def recall_at(
    scores: Floats, labels: Sequence[int], words: Sequence[int], share: float
) -> tuple[float, float]:
    """Return the share of the positives, and of the words, among the best sentences.

    Sentences are taken best first until ``share`` of the words is reached; the sentence that reaches it
    counts, so a short passage keeps at least one, and a little more than ``share`` of the words is kept.
    """
    kept = best_first(scores, words, share * sum(words))
    marks, sizes = np.asarray(labels), np.asarray(words)
    return float(marks[kept].sum() / marks.sum()), float(sizes[kept].sum() / sizes.sum())


def ndcg(ranks: Floats, relevance: Sequence[int], k: int) -> float:
    """NDCG at ``k`` of one list with binary relevance; the mean over orders of equal scores."""
    return float(ndcg_score([list(relevance)], [ranks], k=k))


def per_passage(values: NDArray, passages: Sequence[Passage]) -> list[NDArray]:
    """Part a column of all sentences by passage."""
    edges = np.cumsum([0, *(len(p.sentences) for p in passages)])
    return [values[a:b] for a, b in pairwise(edges.tolist())]


def words_of(passages: Sequence[Passage]) -> list[int]:
    """Count the words between white space of each sentence."""
    return [len(s.split()) for p in passages for s in p.sentences]
