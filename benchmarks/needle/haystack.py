"""Generated haystacks: paragraphs of an encyclopedia (shipped excerpts) with one invented sentence in them.

Kinds of needles, by what is asked for and how:

- ``number``, ``name``, ``place``: the question repeats the words of the sentence;
- ``paraphrase``: it asks for the same in other words, only the building is named alike;
- ``distractor``: three more invented sentences stand elsewhere in the text: the same said of two other
  buildings, and another number of the same building.

All is drawn from the seed, so the same arguments make the same case.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.common.reading import Case
from tokenprune.bench.excerpts import chunks, filled, generator, rows
from tokenprune.document import Document
from tokenprune.tokens import get_counter

KINDS = ("number", "name", "place", "paraphrase", "distractor")
FRAME = 80  # tokens of the chat template and of the longest question

_BUILDINGS = "old mill,east gate,river station,hill observatory,glass house,west pier,north depot,rope yard"
_FIRST = "Agnes Bruno Clara Dmitri Elsa Farid Greta Henrik Ines Jonas Kaito Leila".split()
_LAST = "Abara Lindqvist Moreau Novak Okafor Petrov Quintero Rossi Sandoval Takeda Ullman Varga".split()
_SPOTS = "a blue tin,a hollow beam,the third drawer,a clay jar,the piano stool,an empty beehive".split(",")
_NUMBERS = (
    ("The door code of the {} is {}.", "What is the door code of the {}?"),
    ("The meter of the {} showed {} last winter.", "What did the meter of the {} show last winter?"),
    ("The night guard of the {} has the extension {}.", "Which extension has the night guard of the {}?"),
)
_NAMES = (
    ("The roof of the {} was repaired by {}.", "Who repaired the roof of the {}?"),
    ("The oldest painting in the {} shows {}.", "Whom does the oldest painting in the {} show?"),
)
_PLACES = (
    ("The spare key of the {} is kept in {}.", "Where is the spare key of the {} kept?"),
    ("The visitors' book of the {} lies in {}.", "Where does the visitors' book of the {} lie?"),
)
# (sentence, question in other words, what the answer is drawn from)
_PARAPHRASES = (
    ("Whoever enters the {} has to type {} first.", "I am locked out. Which code opens the {}?", "number"),
    (
        "For the {}, the bill of the carpenters was sent to {}.",
        "Who paid for the woodwork at the {}?",
        "name",
    ),
    ("At the {}, money is hidden in {}.", "Where would a thief find cash in the {}?", "place"),
)


@dataclass(frozen=True)
class Needle:
    """An invented sentence, the question that it answers, and sentences that must not be taken for it."""

    said: str
    asked: str
    answer: str
    others: tuple[str, ...] = ()


def needle(kind: str, rng: np.random.Generator) -> Needle:
    """Draw a needle of a kind."""
    places = [str(p) for p in rng.permutation(_BUILDINGS.split(","))]
    if kind == "paraphrase":
        said, asked, drawn = _PARAPHRASES[int(rng.integers(len(_PARAPHRASES)))]
        answer = _answer(drawn, rng)
        return Needle(said.format(places[0], answer), asked.format(places[0]), answer)
    if kind == "distractor":
        first, second = (int(n) for n in rng.permutation(len(_NUMBERS))[:2])
        codes = [_answer("number", rng) for _ in range(4)]
        said, asked = _NUMBERS[first]
        others = [said.format(place, code) for place, code in zip(places[1:3], codes[1:3], strict=True)]
        others.append(_NUMBERS[second][0].format(places[0], codes[3]))
        return Needle(said.format(places[0], codes[0]), asked.format(places[0]), codes[0], tuple(others))
    known = {"number": _NUMBERS, "name": _NAMES, "place": _PLACES}[kind]
    said, asked = known[int(rng.integers(len(known)))]
    answer = _answer(kind, rng)
    return Needle(said.format(places[0], answer), asked.format(places[0]), answer)


def _answer(kind: str, rng: np.random.Generator) -> str:
    if kind == "number":
        return str(rng.integers(10_000, 100_000))
    if kind == "name":
        return f"{_FIRST[int(rng.integers(len(_FIRST)))]} {_LAST[int(rng.integers(len(_LAST)))]}"
    return _SPOTS[int(rng.integers(len(_SPOTS)))]


def build(tokens: int, depth: float, kind: str, seed: int) -> Case:
    """A case whose prompt has at most ``tokens`` tokens, its needle at the share ``depth`` of the text."""
    rng = generator(seed, kind, str(tokens), f"{depth:.3f}")
    made = needle(kind, rng)
    hay = chunks([("", paragraph) for row in rows("haystack") for paragraph in row["paragraphs"]])
    begin = int(rng.integers(len(hay)))
    count = get_counter().count
    room = tokens - FRAME - sum(count(s) + 1 for s in (made.said, *made.others))
    sentences = [c.text for c in filled([], [*hay[begin:], *hay[:begin]], room, 1)]
    for other in made.others:
        sentences.insert(int(rng.integers(len(sentences) + 1)), other)
    sizes = np.cumsum([0, *(count(s) for s in sentences)])
    sentences.insert(int(np.abs(sizes - depth * sizes[-1]).argmin()), made.said)
    return Case(
        id=f"{kind}-{tokens}-{depth:g}-{seed}",
        question=made.asked,
        golds=(made.answer,),
        documents=(Document("\n".join(sentences), kind="text"),),
        evidence=(made.said,),
    )
