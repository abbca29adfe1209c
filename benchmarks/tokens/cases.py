"""Cases of the data folder: retrieved passages with a question, and pairs of identifiers."""

from __future__ import annotations

import hashlib
from itertools import compress
from pathlib import Path

from benchmarks.common.reading import Case
from benchmarks.rag_quality import contexts
from tokenprune.document import Document
from tokenprune.training.sets import Fold, Item, rows

SETS = ("nq20", "squad10", "kv75")


def cases(data: Path, name: str, sample: int, seed: int, fold: Fold = "test") -> list[Case]:
    """Return a sample of a set; smaller ones are the beginning. kv75 has no folds: all of it is one."""
    if name == "kv75":
        return _pairs(data, sample)
    return [_of_list(item) for item in contexts.items(data, name, sample, seed, fold)]


def _of_list(item: Item) -> Case:
    marks = contexts.evidence(item)
    kept = [list(compress(p.sentences, m)) for p, m in zip(item.passages, marks, strict=True)]
    return Case(
        id=f"{item.set_name}-{item.id}",
        question=item.question,
        golds=item.answers,
        documents=tuple(Document(p.text, kind="text", title=p.title or None) for p in item.passages),
        evidence=tuple(sentence for sentences in kept for sentence in sentences),
    )


def _pairs(data: Path, sample: int) -> list[Case]:
    """Lines of ``"key": "value"`` (Liu et al. 2023, section 3); the question names a key."""
    found = sorted(
        rows(data / "retrieval" / "kv75" / "kv75.jsonl.gz"),
        key=lambda row: hashlib.sha1(row["id"].encode(), usedforsecurity=False).hexdigest(),
    )
    return [
        Case(
            id=row["id"],
            question=f'What is the value of the key "{row["key"]}"?',
            golds=(row["value"],),
            documents=(Document("\n".join(f'"{k}": "{v}"' for k, v in row["pairs"]), kind="text"),),
            evidence=(f'"{row["key"]}": "{row["value"]}"',),
        )
        for row in found[:sample]
    ]
