"""Contexts with a question whose answer stands at a known place, made of the text that ships.

Needles are invented statements in paragraphs of an encyclopedia, beside others that look like them; their
questions use other words. The other half are questions of Natural Questions over retrieved passages.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from tokenprune.bench.excerpts import generator, rows
from tokenprune.errors import ConfigError

Count = Callable[[str], int]

# (statement, question in other words, how values look)
_FACTS = (
    ("{place} keeps its reserve funds in locker {value}.", "Where does {place} store its spare money?"),
    ("To get past the gate of {place}, type {value} on the pad.", "Which digits let a visitor into {place}?"),
    ("{name} has looked after {place} since the old warden left.", "Who is the caretaker of {place} now?"),
    ("A train to {place} departs from platform {value}.", "From which track do people travel to {place}?"),
    ("Workers at {place} wear {colour} jackets on duty.", "What do the staff of {place} dress in?"),
    ("Repairs to {place} cost {value} crowns in total.", "How expensive was it to mend {place}?"),
    ("The piano in {place} was a gift from {name}.", "Who donated a musical instrument to {place}?"),
    ("Inspectors come to {place} on the last {day} of a month.", "When is {place} checked by officials?"),
    ("Children may enter {place} from the age of {small}.", "How old must a young guest of {place} be?"),
    ("Call extension {value} to reach the guard of {place}.", "How can one phone the watchman at {place}?"),
)
_PLACES = (
    "Harrow Mill,Quill House,Saltmarsh Station,the Alder Theatre,Fenwick Depot,the Copper Library,"
    "Marlow Observatory,the Ninth Pier,Ashgrove Clinic,Tern Island,the Lantern Hotel,Bexley Greenhouse"
).split(",")
_VALUES = {
    "name": "Ingrid Palmer,Tomas Reyes,Leila Haddad,Victor Osei,Nora Lindqvist,Samir Kapoor".split(","),
    "colour": "crimson,turquoise,mustard,violet,olive,charcoal".split(","),
    "day": "Monday,Tuesday,Wednesday,Thursday,Friday,Saturday".split(","),
    "small": "six,seven,nine,eleven,twelve,fourteen".split(","),
}
_FIELD = re.compile(r"\{(value|name|colour|day|small)\}")
_DISTRACTORS = 5
LEAST_TOKENS = 256  # of a prompt


@dataclass(frozen=True)
class Item:
    """A context and a question.

    Attributes:
        kind: how it was made.
        context: the text.
        question: of the user.
        answers: characters ``(start, end)`` of the context; any one of them answers.
        depth: where the first of them stands, as a share of the context.
    """

    kind: Literal["needle", "qa"]
    context: str
    question: str
    answers: tuple[tuple[int, int], ...]

    @property
    def depth(self) -> float:
        """Where the answer stands first, in [0, 1]."""
        return self.answers[0][0] / max(1, len(self.context))


def check_items(count: int, tokens: int, least: int = 2) -> None:
    """Raise ConfigError unless so many items can be made, ``least`` or more, and of so many tokens."""
    most = 2 * len(rows("nq20-questions"))
    if not least <= count <= most:
        raise ConfigError(f"calibrate needs {least} to {most} prompts, not {count}")
    if tokens < LEAST_TOKENS:
        raise ConfigError(f"calibrate needs prompts of {LEAST_TOKENS} tokens or more, not {tokens}")


def items(count: int, tokens: int, seed: int, measure: Count) -> list[Item]:
    """Return as many needles as questions, in turns, answers at all depths.

    Args:
        count: items.
        tokens: of a context, about.
        seed: the same one gives the same items.
        measure: tokens of a text, by the model's tokenizer.

    Raises:
        ConfigError: fewer than 2 items, more than there are questions for, or contexts of too few tokens.
    """
    check_items(count, tokens)
    half = (count + 1) // 2
    # Depths in an order that spreads them over any first part of the list.
    depths = [(n * 0.618 + 0.5) % 1.0 for n in range(half)]
    asked = _questions(half, tokens, seed, measure, depths)
    needles = [_needle(n, tokens, seed, measure, depth) for n, depth in enumerate(depths)]
    return [item for pair in zip(needles, asked, strict=True) for item in pair][:count]


def _needle(number: int, tokens: int, seed: int, measure: Count, depth: float) -> Item:
    rng = generator(seed, "calibrate", "needle", str(number))
    place, *others = (_PLACES[i] for i in rng.permutation(len(_PLACES)))
    said, question = _FACTS[number % len(_FACTS)]
    fact, value = _said(said, place, int(rng.integers(10_000, 100_000)), rng.permutation(6).tolist())
    # The same statement about other places, and other statements about the same place.
    rest = [_FACTS[(number + 1 + i) % len(_FACTS)][0] for i in range(_DISTRACTORS)]
    wrong = [
        _said(
            said if i % 2 else rest[i],
            others[i] if i % 2 else place,
            int(rng.integers(10_000, 100_000)),
            rng.permutation(6).tolist(),
        )[0]
        for i in range(_DISTRACTORS)
    ]
    wrong = [text for text in wrong if value not in text]
    hay = [p for row in rows("haystack") for p in row["paragraphs"]]
    begin = int(rng.integers(len(hay)))
    room = tokens - sum(map(measure, [fact, *wrong]))
    paragraphs = list(_within([*hay[begin:], *hay[:begin]], room, measure))
    at = min(len(paragraphs) - 1, int(depth * len(paragraphs)))
    for text in wrong:
        spot = int(rng.integers(len(paragraphs)))
        paragraphs[spot] += f" {text}"
    paragraphs[at] += f" {fact}"
    context = "\n".join(paragraphs)
    start = context.index(fact) + fact.index(value)
    return Item("needle", context, question.format(place=place), ((start, start + len(value)),))


def _said(template: str, place: str, number: int, picks: Sequence[int]) -> tuple[str, str]:
    """Write a statement; return it and the value that answers."""
    found = _FIELD.search(template)
    name = "value" if found is None else found[1]
    value = str(number) if name == "value" else _VALUES[name][picks[0]]
    text = template.format(place=place, **{name: value})
    return text[0].upper() + text[1:], value


def _questions(count: int, tokens: int, seed: int, measure: Count, depths: Sequence[float]) -> Iterator[Item]:
    found = rows("nq20-questions")
    passages = {row["id"]: row for row in rows("nq20-passages")}
    rng = generator(seed, "calibrate", "qa")
    made = 0
    for index in rng.permutation(len(found)):
        if made == count:
            return
        row = found[index]
        gold = next(iter(row["gold"]))
        own = [passages[n] for n in row["passages"] if n not in row["gold"]]
        texts = [f"{p['title']}\n{p['text']}" for p in (own[i] for i in rng.permutation(len(own)))]
        right = f"{passages[gold]['title']}\n{passages[gold]['text']}"
        chosen = list(_within(texts, tokens - measure(right), measure))
        chosen.insert(round(depths[made] * len(chosen)), right)
        context = "\n\n".join(chosen)
        answers = _answers(context, context.index(right), right, row["evidence"], row["answers"])
        if answers:
            made += 1
            yield Item("qa", context, row["question"].rstrip("?") + "?", answers)


def _answers(
    context: str, offset: int, passage: str, evidence: Sequence[str], answers: Sequence[str]
) -> tuple[tuple[int, int], ...]:
    """Places of an answer within sentences that are evidence, as the passage has them."""
    spans = set()
    for sentence in evidence:
        at = passage.find(sentence)
        if at < 0:
            continue
        for answer in answers:
            for match in re.finditer(re.escape(answer), sentence, re.IGNORECASE):
                spans.add((offset + at + match.start(), offset + at + match.end()))
    return tuple(sorted(spans))


def _within(texts: Sequence[str], room: int, measure: Count) -> Iterator[str]:
    """Yield first texts as long as they fit; at least one."""
    for n, text in enumerate(texts):
        room -= measure(text) + 1
        if room < 0 and n:
            return
        yield text
