"""Passages of an item made shorter, or mixed with passages of other items; the same every time."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tokenprune.training.sets import Item, Passage, text_key

_TRIES = 50  # per distractor wanted; a pool of one document has none to give


def generator(item: Item, seed: int) -> np.random.Generator:
    """Return a random generator that depends on the item and the seed alone, not on what came before."""
    digest = hashlib.sha1(f"{seed}:{item.set_name}:{item.id}".encode(), usedforsecurity=False).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "big"))


def excerpt(item: Item, most: int, seed: int = 0) -> Item:
    """Cut each passage of more than ``most`` sentences to ``most`` consecutive ones around a positive.

    The positive is a random one of the passage and stands at a random place, so its position says nothing; a
    passage without positives is cut at a random place.
    """
    rng = generator(item, seed)
    return replace(item, passages=tuple(_excerpt(p, most, rng) for p in item.passages))


def _excerpt(passage: Passage, most: int, rng: np.random.Generator) -> Passage:
    size = len(passage.sentences)
    if size <= most:
        return passage
    positives = np.flatnonzero(passage.labels)
    target = int(rng.choice(positives)) if len(positives) else int(rng.integers(size))
    start = min(max(0, target - int(rng.integers(most))), size - most)
    cut = slice(start, start + most)
    return replace(passage, sentences=passage.sentences[cut], labels=passage.labels[cut])


def with_distractors(item: Item, pool: Sequence[Item], count: int, seed: int = 0) -> Item:
    """Add ``count`` passages of other items, all labels 0, and put all passages in a random order.

    A distractor comes from another document, from an item with another question, and does not contain an
    answer of this item. Fewer are added when the pool has no more.

    Args:
        item: the item; it stays as it is but for the passages.
        pool: items to take passages from, of the same fold and usually of the same set.
        count: passages to add.
        seed: the same seed gives the same passages.
    """
    rng = generator(item, seed)
    question = text_key(item.question)
    answers = [key for answer in item.answers if (key := text_key(answer))]
    seen = {text_key(p.text) for p in item.passages}
    added: list[Passage] = []
    for _ in range(_TRIES * count if pool else 0):
        if len(added) == count:
            break
        other = pool[int(rng.integers(len(pool)))]
        if other.group == item.group or text_key(other.question) == question:
            continue
        passage = other.passages[int(rng.integers(len(other.passages)))]
        key = text_key(passage.text)
        if key in seen or any(answer in key for answer in answers):
            continue
        seen.add(key)
        added.append(replace(passage, labels=(0,) * len(passage.labels)))
    passages = [*item.passages, *added]
    return replace(item, passages=tuple(passages[i] for i in rng.permutation(len(passages))))
