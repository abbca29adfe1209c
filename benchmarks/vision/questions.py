"""Questions about a scene with answers of one word that follow from what was drawn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from benchmarks.vision.scenes import Scene, Thing
from benchmarks.vision.words import COUNTS, PLURALS

PICTURE_TYPES = ("count", "colour", "digit", "shape", "place")
VIDEO_TYPES = ("moved what", "moved colour", "moved way", "moved where")


@dataclass(frozen=True)
class Question:
    """A question; ``about`` are the numbers of the things in the scene that one has to look at."""

    type: str
    text: str
    answer: str
    about: tuple[int, ...]


def questions(scene: Scene) -> list[Question]:
    """Return every question that has one answer in this scene."""
    made = _video(scene) if scene.mover is not None else [*_counts(scene), *_attributes(scene)]
    return list(dict.fromkeys(made))


def sample(scene: Scene, count: int, rng: np.random.Generator) -> list[Question]:
    """Draw questions: types equally often, counts as evenly as the scene allows; again where few are left."""
    by_type: dict[str, list[Question]] = {}
    for question in questions(scene):
        by_type.setdefault(question.type, []).append(question)
    drawn: list[Question] = []
    for types in _rounds(list(by_type), count, rng):
        pool = by_type[types]
        left = [question for question in pool if question not in drawn] or pool
        if types == "count":  # the answer first: scenes hold more single things than groups of five
            answers = sorted({question.answer for question in left})
            answer = answers[rng.integers(len(answers))]
            left = [question for question in left if question.answer == answer]
        drawn.append(left[rng.integers(len(left))])
    return drawn


def _rounds(names: list[str], count: int, rng: np.random.Generator) -> Iterator[str]:
    for start in range(0, count, len(names)):
        yield from (names[i] for i in rng.permutation(len(names))[: count - start])


def _counts(scene: Scene) -> Iterator[Question]:
    things = scene.things

    def ask(what: str, fits: Callable[[Thing], bool]) -> Question:
        about = tuple(index for index, thing in enumerate(things) if fits(thing))
        return Question("count", f"how many {what} are there ?", COUNTS[len(about)], about)

    yield ask("objects", lambda thing: True)
    for colour in dict.fromkeys(thing.colour for thing in things):
        yield ask(f"{colour} objects", lambda thing, colour=colour: thing.colour == colour)  # type: ignore[misc]
    for shape in dict.fromkeys(thing.kind for thing in things if not thing.is_digit):
        yield ask(PLURALS[shape], lambda thing, shape=shape: thing.kind == shape)  # type: ignore[misc]
    if any(thing.is_digit for thing in things):
        yield ask("digits", lambda thing: thing.is_digit)
    if not all(thing.is_digit for thing in things):
        yield ask("shapes", lambda thing: not thing.is_digit)


def _attributes(scene: Scene) -> Iterator[Question]:
    """Ask for one attribute of a thing that another attribute tells from all others."""
    things = scene.things
    kinds = Counter(thing.kind for thing in things)
    looks = Counter((thing.colour, thing.is_digit) for thing in things)
    both = Counter((thing.colour, thing.kind) for thing in things)
    for index, thing in enumerate(things):
        sort = "digit" if thing.is_digit else "shape"
        name = f"digit {thing.kind}" if thing.is_digit else thing.kind
        place, own = thing.place(), (index,)
        if kinds[thing.kind] == 1:
            yield Question("colour", f"what colour is the {name} ?", thing.colour, own)
            yield Question("place", f"where is the {name} ?", place, own)
        elif both[thing.colour, thing.kind] == 1:
            yield Question("place", f"where is the {thing.colour} {name} ?", place, own)
        if looks[thing.colour, thing.is_digit] == 1:
            yield Question(sort, f"which {sort} is {thing.colour} ?", thing.kind, own)
            yield Question("place", f"where is the {thing.colour} {sort} ?", place, own)
        yield Question(sort, f"which {sort} is in the {place} ?", thing.kind, own)
        yield Question("colour", f"what colour is in the {place} ?", thing.colour, own)


def _video(scene: Scene) -> Iterator[Question]:
    assert scene.mover is not None and scene.way is not None
    mover, own = scene.things[scene.mover], (scene.mover,)
    yield Question("moved what", f"which {'digit' if mover.is_digit else 'shape'} moved ?", mover.kind, own)
    yield Question("moved colour", "what colour moved ?", mover.colour, own)
    yield Question("moved way", "which way did it move ?", scene.way, own)
    yield Question("moved where", "where did it start ?", mover.place(0), own)
    yield Question("moved where", "where did it end ?", mover.place(-1), own)
