"""Generated haystacks: plain statements, one of which answers the question, as chat prompts."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

_PLACES = (
    "Lisbon Nairobi Oslo Quito Hanoi Porto Lima Cairo Riga Perth Osaka Dakar Turin Bergen Malmo Cusco".split()
)
_THINGS = "library ferry museum bridge market school garden theatre station harbour bakery clinic".split()
_FACTS = (
    "The {thing} in {place} was opened again in spring, after two years of work on its roof.",
    "People who live near the {thing} in {place} say that mornings are quiet there.",
    "A report on the {thing} in {place} was printed last year and read by few.",
    "On most days the {thing} in {place} closes early, and visitors are asked to come before noon.",
    "Nobody knows who planned the {thing} in {place}, although the papers have been looked through twice.",
    "The city of {place} pays for its {thing} with a small fee on tickets.",
    "When the {thing} in {place} was painted, the workers found an old clock behind a wall.",
)
NEEDLE = "The secret code of the {thing} in {place} is {code}."
QUESTION = "What is the secret code of the {thing} in {place}? Answer with the code only."


@dataclass(frozen=True)
class Case:
    """A prompt with marks: where the question and the answer stand, as token positions."""

    ids: list[int]
    question: tuple[int, ...]
    answer: tuple[int, ...]
    code: str
    depth: float


def build(tokenizer: Any, tokens: int, depth: float, seed: int) -> Case:
    """A prompt of at most ``tokens`` tokens, its needle at the share ``depth`` of the context."""
    draw = random.Random(seed)
    thing, place = draw.choice(_THINGS), draw.choice(_PLACES)
    code = str(draw.randrange(10_000, 100_000))
    needle = NEEDLE.format(thing=thing, place=place, code=code)
    question = QUESTION.format(thing=thing, place=place)
    facts: list[str] = []
    size = 0
    while True:
        fact = draw.choice(_FACTS).format(thing=draw.choice(_THINGS), place=draw.choice(_PLACES))
        size += len(tokenizer.encode(" " + fact, add_special_tokens=False))
        if size > tokens - 120:
            break
        facts.append(fact)
    facts.insert(round(depth * len(facts)), needle)
    content = " ".join(facts) + "\n\n" + question
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    at = text.index(needle) + needle.index(code)
    asked = text.rindex(question)
    return Case(
        list(encoded["input_ids"]),
        _covered(encoded["offset_mapping"], asked, asked + len(question)),
        _covered(encoded["offset_mapping"], at, at + len(code)),
        code,
        depth,
    )


def _covered(offsets: list[tuple[int, int]], start: int, end: int) -> tuple[int, ...]:
    return tuple(i for i, (a, b) in enumerate(offsets) if a < end and b > start)
