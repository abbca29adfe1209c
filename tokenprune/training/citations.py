"""The question that a language model is asked for silver labels, and the reading of its answer.

As in Provence (arXiv 2501.16214, section 3.2): the sentences are numbered, the model answers from them alone
and cites the numbers, or says that there is no answer; cited sentences are the positives.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tokenprune.tokens import sanitize
from tokenprune.training.sets import Passage

INSTRUCTION = (
    "Answer the question from the numbered sentences alone; use nothing else that you know. Behind each "
    "statement cite every sentence that it comes from by its number in square brackets, like [2] or [4][5]. "
    "Be brief. If the sentences do not answer the question, reply only: No answer"
)
_BRACKETS = re.compile(r"[\[\u3010]([^\[\]\u3010\u3011]*)[\]\u3011]")
# What may stand beside the numbers; anything else in brackets ("[sic]", "[see table 2]") is no citation.
_LIST = re.compile(r"(?:[\d\s,;&#\-\u2010-\u2014]|sentences?\b|and\b|to\b)+", re.IGNORECASE)
_NUMBERS = re.compile(r"(\d+)(?:\s*(?:[\-\u2010-\u2014]|to\b)\s*(\d+))?", re.IGNORECASE)
_DIGITS = 9  # a longer number is out of any range
_NO_ANSWER = re.compile(r"\W*no\s+answer\b\W*", re.IGNORECASE)


@dataclass(frozen=True)
class Reading:
    """What an answer says.

    Args:
        passages: with the cited sentences as positives.
        answer: the text without its citations.
        kind: ``answered``, ``no answer`` (all labels are 0) or ``uncited`` (of no use: neither).
    """

    passages: tuple[Passage, ...]
    answer: str
    kind: str


def prompt(question: str, passages: Sequence[Passage]) -> str:
    """Return the user's message; sentences are numbered from 1 through all passages."""
    lines = []
    number = 0
    for passage in passages:
        if passage.title:
            lines.append(f"# {_one_line(passage.title)}")
        for sentence in passage.sentences:
            number += 1
            lines.append(f"[{number}] {_one_line(sentence)}")
    return f"{INSTRUCTION}\n\n" + "\n".join(lines) + f"\n\nQuestion: {_one_line(question)}"


def cited(answer: str, count: int) -> list[int]:
    """Return the positions, from 0 and ascending, of the sentences that an answer cites.

    Reads ``[1]``, ``[1][3]``, ``[1, 3]``, ``[2-4]``, ``[2 to 4 and 6]``, ``[sentence 2]`` and their forms
    with other dashes or lenticular brackets. Numbers outside 1..``count`` are ignored.
    """
    found: set[int] = set()
    for group in _BRACKETS.finditer(answer):
        if not _LIST.fullmatch(group[1]):
            continue
        for match in _NUMBERS.finditer(group[1]):
            ends = [_clipped(n, count) for n in (match[1], match[2] or match[1])]
            found.update(range(max(1, min(ends)), min(count, max(ends)) + 1))
    return [number - 1 for number in sorted(found)]


def read(answer: str, passages: Sequence[Passage]) -> Reading:
    """Turn an answer into labels of the sentences it was asked about."""
    total = sum(len(p.sentences) for p in passages)
    positives = set(cited(answer, total))
    plain = " ".join(_BRACKETS.sub(" ", answer).split())
    start = _NO_ANSWER.match(plain)
    if start and (not positives or start.end() == len(plain)):
        positives, kind = set(), "no answer"
    else:
        kind = "answered" if positives else "uncited"
    labelled = []
    first = 0
    for passage in passages:
        numbers = range(first, first := first + len(passage.sentences))
        labelled.append(replace(passage, labels=tuple(int(n in positives) for n in numbers)))
    return Reading(tuple(labelled), plain, kind)


def _clipped(digits: str, count: int) -> int:
    return int(digits) if len(digits) <= _DIGITS else count + 1


def _one_line(text: str) -> str:
    return " ".join(sanitize(text).split())
