"""What a method leaves of twenty passages, as the text that the model reads.

A passage is its title on a line of its own and its sentences joined by spaces; passages are parted by an
empty line and stand in one order for all methods, a random one, since the lists have the gold passage near
the top. A title is kept when a sentence of its passage is. Budgets are in tokens of SmolLM2 and count titles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.common.relevance import Floats
from benchmarks.common.scorers import Method
from benchmarks.common.store import Store
from tokenprune.tokens import get_counter
from tokenprune.training.passages import generator
from tokenprune.training.sets import Fold, Item, Passage, fold_of, load, text_key

Masks = Sequence[NDArray[np.bool_]]


def items(data: Path, name: str, sample: int, seed: int, fold: Fold = "test") -> list[Item]:
    """Return ``sample`` lists with an order of their passages; smaller samples are the beginning."""
    found = [item for item in load(name, data) if fold_of(item) == fold]
    found.sort(key=lambda item: int(generator(item, seed).integers(2**60)))
    return [_shuffled(item, seed) for item in found[:sample]]


def _shuffled(item: Item, seed: int) -> Item:
    order = generator(item, seed).permutation(len(item.passages))
    return replace(item, passages=tuple(item.passages[i] for i in order))


def scores(store: Store, item: Item, method: Method) -> tuple[list[Floats], Floats]:
    """Return the scores of sentences and passages, from the store where they are known."""
    key = f"{item.set_name}|{item.id}|{method.name}|{method.version}"
    if key not in store:
        sentences = method.sentences(item.question, item.passages)
        ranks = method.ranks(item.question, item.passages)
        store.put(key, {"sentences": [s.tolist() for s in sentences], "ranks": ranks.tolist()})
    found = store[key]
    return [np.asarray(s, dtype=np.float64) for s in found["sentences"]], np.asarray(found["ranks"])


def render(passages: Sequence[Passage], keep: Masks) -> str:
    """Join the kept sentences under the titles of their passages."""
    parts = []
    for passage, mask in zip(passages, keep, strict=True):
        text = " ".join(s for s, kept in zip(passage.sentences, mask, strict=True) if kept)
        if text:
            parts.append(f"{passage.title}\n{text}" if passage.title else text)
    return "\n\n".join(parts)


def whole(passages: Sequence[Passage], kept: Sequence[int] | NDArray[np.int64] | None = None) -> Masks:
    """Keep all sentences of the passages at these positions; None: of all."""
    chosen = range(len(passages)) if kept is None else set(map(int, kept))
    return [np.full(len(p.sentences), i in chosen) for i, p in enumerate(passages)]


def top(passages: Sequence[Passage], ranks: Floats, k: int) -> Masks:
    """Keep the ``k`` passages with the best scores."""
    return whole(passages, np.argsort(-ranks, kind="stable")[:k])


def above(sentences: Sequence[Floats], threshold: float) -> Masks:
    """Keep the sentences that score more than a threshold (Provence, arXiv 2501.16214, section 3.1)."""
    return [s > threshold for s in sentences]


def within(passages: Sequence[Passage], sentences: Sequence[Floats], max_tokens: int) -> Masks:
    """Keep the best sentences that fit, with the titles they bring; one that does not fit is passed over."""
    count = get_counter().count_many
    costs = [count([f" {s}" for s in p.sentences]) for p in passages]
    titles = count([f"{p.title}\n\n\n" for p in passages])
    keep = [np.zeros(len(p.sentences), dtype=bool) for p in passages]
    places = [(i, j) for i, p in enumerate(passages) for j in range(len(p.sentences))]
    taken: list[tuple[int, int]] = []
    left = max_tokens
    for at in np.argsort(-np.concatenate(sentences), kind="stable").tolist():
        i, j = places[at]
        cost = int(costs[i][j]) + (0 if keep[i].any() else int(titles[i]))
        if cost <= left:
            keep[i][j] = True
            left -= cost
            taken.append((i, j))
    while taken and get_counter().count(render(passages, keep)) > max_tokens:  # joined, tokens can be more
        i, j = taken.pop()
        keep[i][j] = False
    return keep


def evidence(item: Item) -> Masks:
    """Mark the sentences of relevant passages that hold an answer, compared by letters and digits."""
    answers = [key for answer in item.answers if (key := text_key(answer))]
    return [
        np.array([p.relevant and any(a in text_key(s) for a in answers) for s in p.sentences], dtype=bool)
        for p in item.passages
    ]


def evidence_kept(marks: Masks, keep: Masks) -> float | None:
    """Share of the marked sentences that are kept; None when none is marked."""
    marked, kept = np.concatenate(marks), np.concatenate(keep)
    return float(kept[marked].mean()) if marked.any() else None
