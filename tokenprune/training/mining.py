"""Lists of passages that are hard to rank: a question's own, and the most similar ones of other documents.

Distractors drawn at random are told apart by any word of the question. A retriever returns what is similar,
so half of the distractors are those that BM25 takes for the best, half those of a bi-encoder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import zip_longest

import numpy as np

from tokenprune.arrays import FloatArray
from tokenprune.document import Document
from tokenprune.score.bm25 import BM25
from tokenprune.tokens import get_counter
from tokenprune.training.passages import excerpt, generator
from tokenprune.training.sets import Item, Passage, text_key
from tokenprune.units import Units

_LOOKED_AT = 5  # candidates of each kind per distractor wanted: many hold an answer or are of the same document


def mined(
    items: Sequence[Item],
    pool: Sequence[Item],
    count: int,
    sentences: int,
    embed: Callable[[Sequence[str]], FloatArray],
    seed: int = 0,
) -> Iterator[Item]:
    """Yield each item with ``count`` similar passages of the pool, all labels 0, in a random order.

    A distractor comes from another document and from an item with another question, and does not contain an
    answer of the item; fewer are added when the pool has no more.

    Args:
        items: questions with their passages.
        pool: items to take passages from, of the same fold and set.
        count: passages to add.
        sentences: longest passage; longer ones are cut (`excerpt`).
        embed: gives texts vectors of unit length, float [n, d], questions and passages alike.
        seed: of cuts and order.
    """
    passages: list[Passage] = []
    of: list[Item] = []
    known: set[str] = set()
    for other in pool:
        for passage in excerpt(other, sentences, seed).passages:
            if (key := text_key(passage.text)) and key not in known:
                known.add(key)
                passages.append(passage)
                of.append(other)
    keys = [text_key(p.text) for p in passages]
    vectors = embed([shown(p) for p in passages])
    units = [Units.from_starts(Document(shown(p), kind="text"), [0], get_counter()) for p in passages]
    bm25 = BM25()
    for item, asked in zip(items, embed([i.question for i in items]), strict=True):
        made = excerpt(item, sentences, seed)
        words = np.array([float(s[0]) if len(s) else 0.0 for s in bm25.score(item.question, units)])
        best = [
            np.argsort(-by, kind="stable")[: _LOOKED_AT * count].tolist() for by in (words, vectors @ asked)
        ]
        question = text_key(item.question)
        answers = [key for answer in item.answers if (key := text_key(answer))]
        taken = {text_key(p.text) for p in item.passages} | {text_key(p.text) for p in made.passages}
        added: list[Passage] = []
        for n in (n for pair in zip_longest(*best) for n in pair if n is not None):
            if len(added) == count:
                break
            same = of[n].group == item.group or text_key(of[n].question) == question
            if same or keys[n] in taken or any(answer in keys[n] for answer in answers):
                continue
            taken.add(keys[n])
            added.append(replace(passages[n], labels=(0,) * len(passages[n].labels)))
        everything = [*made.passages, *added]
        order = generator(item, seed).permutation(len(everything)).tolist()
        yield replace(made, passages=tuple(everything[i] for i in order))


def shown(passage: Passage) -> str:
    """A passage as a retriever reads it."""
    return f"{passage.title}\n{passage.text}" if passage.title else passage.text
