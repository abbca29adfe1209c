"""The mixture that the small labeler is trained on: which sets, how much of each, and what is added."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tokenprune.training.passages import excerpt, generator, with_distractors
from tokenprune.training.sets import Item, trainable

# Questions whose own passages with evidence are taken away, so that "nothing here" is learned.
UNANSWERABLE = 0.06
# Passages that join each question where it is measured: sets with many all-positive items.
MEASURED_DISTRACTORS = {"policyqa": 2, "nq_litm": 2, "nq_swap": 2}
# Share of the windows with a title that are read without it: applications often have none.
UNTITLED = 0.3


@dataclass(frozen=True)
class Part:
    """What is taken of a set.

    Args:
        cap: most questions an epoch takes of it, so that no domain outweighs the rest.
        weight: of its sentence labels in the loss; below 1 where they are known to be coarse.
        distractors: passages of other questions added to each.
        sentences: longest passage; longer ones are cut around a positive.
        passages: most passages of a question; those with evidence stay.
    """

    cap: int
    weight: float = 1.0
    distractors: int = 1
    sentences: int = 40
    passages: int = 6


OWN = "own"  # the set that labels of one's own are taken as
# medquad labels whole sections; qmsum whole runs of turns. policyqa, nq_swap and nq_litm have items whose
# sentences are all positive, so other passages join them.
MIXTURE: dict[str, Part] = {
    OWN: Part(4000),
    "hotpotqa": Part(200, distractors=0, passages=10),
    "medquad": Part(1600, weight=0.4),
    "nq_litm": Part(1600, distractors=2),
    "nq_swap": Part(1500, distractors=2),
    "policyqa": Part(1800, distractors=3),
    "qed": Part(1000),
    "qmsum": Part(900, weight=0.6, distractors=0),
    "selqa": Part(1600),
    "squad_rl": Part(2200),
    "nq20": Part(400, distractors=0, passages=7),
    "pubmedqa10": Part(400, distractors=0, passages=7),
    "squad10": Part(600, distractors=0, passages=6),
}
# Lists that the rank head is fitted on; of squad10 few, since its questions were written from their passages.
RANKED: dict[str, Part] = {
    "nq20": Part(450, distractors=0, passages=20),
    "pubmedqa10": Part(300, distractors=0, passages=10),
    "squad10": Part(200, distractors=0, passages=10),
}


def check(names: Sequence[str]) -> list[str]:
    """Return the names, when a model trained on all of these sets may be published.

    Raises:
        ConfigError: a set may not be trained on.
        UnknownNameError: there is no such set.
    """
    given = list(names)
    return [*trainable(name for name in given if name != OWN), *([OWN] if OWN in given else [])]


def epoch(
    items: Sequence[Item], number: int, seed: int = 0, mixture: Mapping[str, Part] = MIXTURE
) -> Iterator[Item]:
    """Yield the questions of an epoch in a random order; the same arguments give the same ones.

    Items whose answer occurs more than once are left out: one of their labels is likely wrong.
    """
    rng = np.random.default_rng((seed, number))
    by_set: dict[str, list[Item]] = {}
    for item in items:
        if item.set_name in mixture and item.occurrences <= 1:
            by_set.setdefault(item.set_name, []).append(item)
    chosen = []
    for name in sorted(by_set):
        own = by_set[name]
        chosen += [own[i] for i in rng.permutation(len(own))[: mixture[name].cap]]
    for i in rng.permutation(len(chosen)).tolist():
        item = chosen[i]
        made = compose(item, by_set[item.set_name], mixture[item.set_name], (seed << 16) + number)
        if made.passages:
            yield made


def compose(item: Item, pool: Sequence[Item], part: Part, seed: int) -> Item:
    """Make a training question of an item: shortened, with distractors, sometimes without its evidence."""
    rng = generator(item, seed ^ 0x5EED)
    made = _fewer(excerpt(item, part.sentences, seed), part.passages, rng)
    if part.distractors:
        made = with_distractors(made, pool, part.distractors, seed)
        made = excerpt(made, part.sentences, seed)
    rest = tuple(p for p in made.passages if not p.relevant)
    if rest and rng.random() < UNANSWERABLE:
        made = replace(made, passages=rest)
    untitled = rng.random(len(made.passages)) < UNTITLED
    passages = zip(made.passages, untitled.tolist(), strict=True)
    return replace(made, passages=tuple(replace(p, title="") if bare else p for p, bare in passages))


def ranked(items: Sequence[Item], seed: int = 0, mixture: Mapping[str, Part] = RANKED) -> Iterator[Item]:
    """Yield lists of passages, by set; in some no passage has a title. The same arguments, the same lists."""
    for name, part in sorted(mixture.items()):
        pool = sorted((i for i in items if i.set_name == name), key=lambda i: i.id)
        order = np.random.default_rng((seed, len(pool))).permutation(len(pool))
        for i in order[: part.cap].tolist():
            rng = generator(pool[i], seed ^ 0x11575)
            made = _fewer(excerpt(pool[i], part.sentences, seed), part.passages, rng)
            if part.distractors:
                made = with_distractors(made, pool, part.distractors, seed)
                made = excerpt(made, part.sentences, seed)
            if rng.random() < UNTITLED:
                made = replace(made, passages=tuple(replace(p, title="") for p in made.passages))
            yield made


def _fewer(item: Item, most: int, rng: np.random.Generator) -> Item:
    if len(item.passages) <= most:
        return item
    order = rng.permutation(len(item.passages)).tolist()
    order.sort(key=lambda i: not item.passages[i].relevant)
    return replace(item, passages=tuple(item.passages[i] for i in sorted(order[:most])))
