"""What is measured of a labeler while it is trained: do a question's sentences come in the right order?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from tokenprune.models.labeler import Labeler
from tokenprune.models.labeler import Passage as Text
from tokenprune.training.mixture import MEASURED_DISTRACTORS
from tokenprune.training.passages import excerpt, with_distractors
from tokenprune.training.sets import Item, Passage

_TURNS = 80  # of a transcript; validation must not take longer than training


def questions(items: Sequence[Item], per_set: int, seed: int = 0) -> dict[str, list[Item]]:
    """Choose questions of each set that have both kinds of sentences."""
    by_set: dict[str, list[Item]] = {}
    rng = np.random.default_rng(seed)
    for i in rng.permutation(len(items)).tolist():
        by_set.setdefault(items[i].set_name, []).append(items[i])
    chosen: dict[str, list[Item]] = {}
    for name, pool in sorted(by_set.items()):
        found = chosen.setdefault(name, [])
        for item in pool:
            if len(found) == per_set:
                break
            made = excerpt(item, _TURNS, seed) if name == "qmsum" else item
            made = with_distractors(made, pool, MEASURED_DISTRACTORS.get(name, 0), seed)
            if len({label for p in made.passages for label in p.labels}) == 2:
                found.append(made)
    return {name: found for name, found in chosen.items() if found}


def sentence_scores(labeler: Labeler, item: Item) -> list[np.ndarray]:
    """Mean keep probability of each sentence of each passage, float64."""
    made = [text_of(p) for p in item.passages]
    found = labeler.label(item.question, [text for text, _ in made])
    return [labels.means(bounds) for labels, (_, bounds) in zip(found, made, strict=True)]


def text_of(passage: Passage) -> tuple[Text, np.ndarray]:
    """Return a passage for a labeler, and where its sentences begin and end."""
    bounds = np.cumsum([0, *(len(s) + 1 for s in passage.sentences)])
    text = passage.text + " "
    return Text(text, passage.title or None, tuple(bounds[1:-1].tolist())), bounds


def auc(labeler: Labeler, chosen: Mapping[str, Sequence[Item]]) -> dict[str, float]:
    """Mean ROC-AUC of the sentences of a question, by set."""
    means = {}
    for name, items in chosen.items():
        figures = [
            pairs_in_order(
                np.concatenate(sentence_scores(labeler, item)),
                np.asarray([label for p in item.passages for label in p.labels]),
            )
            for item in items
        ]
        means[name] = float(np.mean(figures))
    return means


def pairs_in_order(scores: np.ndarray, labels: np.ndarray) -> float:
    """ROC-AUC: the share of (positive, negative) pairs in the right order; equal scores count half."""
    positive, negative = scores[labels == 1], scores[labels == 0]
    gaps = positive[:, None] - negative[None]
    return float(((gaps > 0) + 0.5 * (gaps == 0)).mean())
