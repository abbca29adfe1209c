"""Which lists of passages a rank is fused on, and how they are parted to be checked by each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from tokenprune.training.passages import generator
from tokenprune.training.sets import Item, fold_of, split, text_key

# How many lists of each set a rank is fused on.
FUSED = {"nq20": 180, "pubmedqa10": 120, "squad10": 120}


def unread(items: Sequence[Item], names: Sequence[str]) -> list[Item]:
    """Return the lists that the network was not trained on and that share nothing that is judged with a test.

    What a network finds in a question it was trained on looks surer than what it finds in a new one, and a
    sum that is fitted to that trusts it too much. A passage of a retrieved list stands in many lists, nearly
    everywhere as one that does not answer: here two lists are kept apart by their questions and by the
    passages that answer them.

    Args:
        items: of every set that the network was trained on or is tested by, see `split`.
        names: the sets whose lists are wanted.
    """
    trained = {(item.set_name, item.id) for item in split(items).train}
    own = [item for item in items if item.set_name in names]
    tested = {key for item in own if fold_of(item) == "test" for key in judged(item)}
    rest = (item for item in own if fold_of(item) != "test" and (item.set_name, item.id) not in trained)
    return [item for item in rest if tested.isdisjoint(judged(item))]


def taken(items: Sequence[Item], most: Mapping[str, int], seed: int = 0) -> list[Item]:
    """Return at most so many items of each set, in an order that more of them would not change."""
    out: list[Item] = []
    for name, count in most.items():
        own = [item for item in items if item.set_name == name]
        out += sorted(own, key=lambda i: int(generator(i, seed).integers(2**60)))[:count]
    return out


def judged(item: Item) -> set[str]:
    """Keys of an item's question and of its passages with evidence."""
    return {"?" + text_key(item.question), *(text_key(p.text) for p in item.passages if p.relevant)}


def parts(items: Sequence[Item], count: int, seed: int = 0) -> list[int]:
    """Number each item's part, 0 to ``count - 1``; items that share what is judged are in one part."""
    above: dict[str, str] = {}

    def root(key: str) -> str:
        while above.setdefault(key, key) != key:
            above[key] = key = above[above[key]]
        return key

    for item in items:
        first, *others = sorted(judged(item))
        for key in others:
            above[root(key)] = root(first)
    roots = [root(min(judged(item))) for item in items]
    distinct = sorted(set(roots))
    of = np.random.default_rng(seed).permutation(len(distinct)) % count
    number = dict(zip(distinct, of.tolist(), strict=True))
    return [number[key] for key in roots]
