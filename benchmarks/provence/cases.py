"""Test questions of the sentence sets, the same for every method."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from tokenprune.training.mixture import MEASURED_DISTRACTORS, MIXTURE
from tokenprune.training.overlap import Runs, apart
from tokenprune.training.passages import excerpt, with_distractors
from tokenprune.training.sets import SETS, Item, fold_of, load

TURNS = 200


def cases(data: Path, name: str, sample: int, seed: int, strict: bool = False) -> list[Item]:
    """Return ``sample`` test items in an order fixed by the seed; smaller samples are its beginning.

    Two passages of other test items join those of policyqa, nq_litm and nq_swap; a qmsum transcript is cut to
    200 turns around a relevant one. ``strict`` leaves out items whose evidence is a near copy of
    something in the training folds of all sets (see tokenprune.training.overlap).
    """
    items = [item for item in load(name, data) if fold_of(item) == "test"]
    random.Random(seed).shuffle(items)
    pool = list(items)
    if strict:
        items = apart(items, _trained(data))
    made: list[Item] = []
    for item in items[:sample]:
        if name == "qmsum":
            item = excerpt(item, TURNS, seed)
        item = (
            with_distractors(item, pool, MEASURED_DISTRACTORS[name], seed)
            if name in MEASURED_DISTRACTORS
            else item
        )
        made.append(replace(item, passages=tuple(p for p in item.passages if p.sentences)))
    return made


@lru_cache(maxsize=1)
def _trained(data: Path) -> Runs:
    """What a model trained with tokenprune.training may have seen, or have been chosen by."""
    items = (item for name in MIXTURE if name in SETS for item in load(name, data) if fold_of(item) != "test")
    return Runs(p.text for item in items for p in item.passages)
