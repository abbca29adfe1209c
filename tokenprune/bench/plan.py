"""What is sent in which order, so that the two routes can be compared and do not disturb each other.

**One at a time** (closed loop, concurrency 1): every case goes over all routes one after the other, and the
route that goes first changes from pair to pair (and, for a case, from round to round): what drifts, drifts
for both.

**Three routes** (``always``): the third asks the same of the proxy in other words, as the proxy remembers
what it has read.

**Under load** (higher concurrency, or a rate): two streams at once would wait for each other in the same
server, and each would be measured under the load of the other. So each round sends the whole workload over
one route, waits until all is answered, and then over the other; the route that goes first changes from round
to round. Both get the same arrival times.

**Prefix cache**: both routes usually end in the same server, and what one sent would be found in the cache
by the other. So each message list begins with a line of digits, equally long everywhere. Cold: another
number for each request, so that nothing is found. Warm: one number per route and round, so that a request
finds what its own route sent before it in this round, and only that: the first of a group pays for the
prefix that the others share. Numbers differ from run to run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, Literal

import numpy as np

from tokenprune.bench.case import Case
from tokenprune.bench.rows import ALWAYS, SIDES, Side

Cache = Literal["cold", "warm"]


@dataclass(frozen=True)
class Send:
    """One request of the plan.

    Attributes:
        case: what to ask.
        side: over which route.
        round: counts from 0.
        salt: stands at the beginning of the prompt.
        at_s: open loop: when it arrives, in seconds from the start of its block.
    """

    case: Case
    side: Side
    round: int
    salt: str
    at_s: float | None = None


@dataclass(frozen=True)
class Block:
    """What runs together: lanes at the same time, the requests of a lane one after the other.

    Attributes:
        lanes: cases of one group share a lane, so that their order holds.
        side: the only route of the block, None where both take turns.
    """

    lanes: tuple[tuple[Send, ...], ...]
    side: Side | None


class Salts:
    """Lines of twelve digits: most tokenizers make equally many tokens of equally many digits."""

    def __init__(self, run: int) -> None:
        """``run`` tells runs apart, 0 <= run < 10**6."""
        self._run, self._next = run, count()

    def new(self) -> str:
        """Return a number that was not given out before."""
        return f"{self._run:06d}{next(self._next) % 10**6:06d}"


def by_group(cases: Sequence[Case]) -> list[list[Case]]:
    """Return lanes in order of their first case; a case without a group has its own."""
    lanes: dict[str, list[Case]] = {}
    for number, case in enumerate(cases):
        lanes.setdefault(f"n{number}" if case.group is None else f"g{case.group}", []).append(case)
    return list(lanes.values())


def one_at_a_time(
    cases: Sequence[Case],
    rounds: int,
    cache: Cache,
    salts: Salts,
    seed: int,
    sides: Sequence[Side] = SIDES,
) -> list[Block]:
    """Return one block per round in which the routes take turns."""
    first = int(np.random.default_rng(seed).integers(2))
    ordered = [case for lane in by_group(cases) for case in lane]
    blocks = []
    for number in range(rounds):
        salt = _salt_of(cache, salts)
        lane = []
        for position, case in enumerate(ordered):
            turns = _turns(sides, first + number + position)
            lane += [Send(case, side, number, salt(side)) for side in turns]
        blocks.append(Block((tuple(lane),), None))
    return blocks


def under_load(
    cases: Sequence[Case],
    rounds: int,
    cache: Cache,
    salts: Salts,
    seed: int,
    rate: float | None,
    sides: Sequence[Side] = SIDES,
) -> list[Block]:
    """Return a block per round and route; with a rate (requests/s) arrivals are a Poisson process."""
    first = int(np.random.default_rng(seed).integers(2))
    lanes = by_group(cases)
    blocks = []
    for number in range(rounds):
        salt = _salt_of(cache, salts)
        times: list[Any] = (
            [None] * len(cases) if rate is None else _arrivals(len(cases), rate, [seed, number])
        )
        for side in _turns(sides, first + number):
            arrival: Iterator[Any] = iter(times)
            at = {case.id: next(arrival) for case in cases}
            sends = tuple(tuple(Send(c, side, number, salt(side), at[c.id]) for c in lane) for lane in lanes)
            blocks.append(Block(sends, side))
    return blocks


def _turns(sides: Sequence[Side], first: int) -> list[Side]:
    """The routes in their order, beginning with another one for each ``first``.

    Of three the two others take turns as well, so that each comes before each other equally often.
    """
    turn, at = divmod(first, len(sides))
    turned = [*sides[at:], *sides[:at]]
    return [turned[0], *turned[:0:-1]] if turn % 2 and len(sides) > 2 else turned


def _arrivals(n: int, rate: float, seed: list[int]) -> list[float]:
    # Stretched so that the last arrives at n / rate, as vLLM's client does: the rate is what was asked for.
    times = np.cumsum(np.random.default_rng(seed).exponential(1 / rate, n))
    return [float(t) for t in times * (n / rate / times[-1])]


def _salt_of(cache: Cache, salts: Salts) -> Any:
    if cache == "cold":
        return lambda side: salts.new()
    fixed = {side: salts.new() for side in (*SIDES, ALWAYS)}
    return fixed.__getitem__


def salted(messages: Sequence[Any], salt: str) -> list[dict[str, Any]]:
    """Return the messages with the salt as a paragraph of its own before the first text."""
    first, *rest = (dict(message) for message in messages)
    content, line = first.get("content"), f"[{salt}]\n\n"
    if isinstance(content, list):
        parts = [dict(part) for part in content]
        if parts and parts[0].get("type") in ("text", "input_text"):
            parts[0]["text"] = line + str(parts[0].get("text", ""))
        else:
            parts.insert(0, {"type": "text", "text": line})
        first["content"] = parts
    else:
        first["content"] = line + (content or "")
    return [first, *rest]


_COMMON = re.compile(r"\b(?:the|The|of|der|die|das|le|la|el)\b")


def in_other_words(case: Case) -> Case:
    """Return a case of the same shape: a proxy may remember documents and questions."""

    def changed(text: str) -> str:
        asked = text.replace(case.question, f"Tell me: {case.question}") if case.question else text
        return _COMMON.sub("some", asked)

    messages = []
    for message in case.messages:
        content = message.get("content")
        if isinstance(content, str):
            content = changed(content)
        elif isinstance(content, list):
            content = [{**p, "text": changed(p["text"])} if "text" in p else p for p in content]
        messages.append({**message, "content": content})
    return replace(case, messages=tuple(messages))
