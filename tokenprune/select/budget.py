"""Fill one token budget, exact on the rendered output, across all documents.

Greedy selection under a knapsack constraint on a tree: a unit costs its own tokens, the tags of the wrappers
that are not open yet, and what leads it (headings, header rows) and is not kept yet. HtmlRAG (arXiv
2411.02959, algorithm 1) removes the worst block and counts the whole page again after each; here costs are
counted once and only the final text is counted again.

The heading, header row or lead-in right above a unit comes with it where it fits; what is above that (the
headings of the chapter and of the page, its title) only where it is short beside the unit. All headings that
come so have a small share of the budget, but for that of the best unit and those without which a unit would
be read under the heading of another section: such a unit has its own heading, or is passed over.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from tokenprune.arrays import BoolArray, FloatArray
from tokenprune.select.headings import Headings
from tokenprune.select.simple import best_first
from tokenprune.units import Units

# Headings further up come along when all that a unit brings is at most this share of its own tokens. Key
# sentences kept at 256 tokens, 60 questions a set, all leads -> this: docs .722 -> .772, heading deleted
# .629 -> .676, wikitables .433 -> .450, the same at 512 and 1,024 tokens (share .25: as this; 1: .747, .644,
# .450; no leads at all: .780, .714, .483).
_FURTHER_UP = 0.5
# All headings that are brought get this share of a budget together, those of the best units first: headings
# above everything are what a tight budget cannot pay. Terms, header rows and what introduces a list belong to
# what they lead, and come as before. Key sentences kept at 1,024 / 512 / 256 tokens, 60 questions a set, no
# bound -> .1 -> .06: docs .953 / .916 / .833 -> the same -> .953 / .913 / .841, heading deleted .938 / .861 /
# .671 -> .935 / .872 / .695 -> .943 / .881 / .717, wikitables .872 / .767 / .567 -> .889 / .767 / .567 -> the
# same. NLL of answers at 512 tokens (17 questions of docs) .618 -> .623 at .06. At .06 and 300 tokens a page
# may lose the one heading that says what it is about. (All of before units had to stand under their own
# headings, which costs two to five points at 256 tokens and none at 512 and more.)
_FOR_HEADINGS = 0.1
_LEAST_FOR_HEADINGS = 16  # tokens: one of them
_ROUNDS = 12  # corrections when the tokens of joined pieces are not the sum of their parts


def fill(
    documents: Sequence[Units],
    scores: Sequence[FloatArray],
    limit: int,
    count: Callable[[int, BoolArray], int],
    in_order: Sequence[bool] = (),
) -> list[BoolArray]:
    """Choose units from the best score down, so that the rendered documents hold at most ``limit`` tokens.

    Args:
        documents: segmented documents.
        scores: float64 [n] per document, on one scale; minus infinity for a unit that nothing can keep but
            what it leads.
        limit: tokens of all documents together.
        count: exact tokens of document i rendered under a mask.
        in_order: per document, whether it ends at the first unit that does not fit; default no.

    Returns:
        bool [n] per document.
    """
    exact: dict[tuple[int, bytes], int] = {}

    def total(masks: Sequence[BoolArray]) -> int:
        tokens = 0
        for i, mask in enumerate(masks):
            if mask.any():
                key = (i, np.packbits(mask).tobytes())
                if key not in exact:
                    exact[key] = count(i, mask)
                tokens += exact[key]
        return tokens

    headings = [Headings(u) for u in documents]
    best = [np.zeros(len(u), dtype=bool) for u in documents]
    best_tokens = 0
    target, low, high = limit, 0, None
    for _ in range(_ROUNDS):
        masks = _greedy(documents, scores, headings, target, in_order)
        tokens = total(masks)
        if tokens <= limit:
            if tokens > best_tokens:
                best, best_tokens = masks, tokens
            low = target
            if limit - tokens <= limit // 100 or all(m.all() for m in masks):
                break
            step = target + (limit - tokens)
        else:
            high = target
            step = target - (tokens - limit)
        if high is None:
            target = step
        else:
            target = step if low < step < high else (low + high) // 2
            if target <= low:
                break
    return best


def _greedy(
    documents: Sequence[Units],
    scores: Sequence[FloatArray],
    headings: Sequence[Headings],
    limit: int,
    in_order: Sequence[bool],
) -> list[BoolArray]:
    """One pass from the best unit down; a unit that does not fit is passed over."""
    keep = [np.zeros(len(u), dtype=bool) for u in documents]
    opened = [np.zeros(len(u.wrapper_parent), dtype=bool) for u in documents]
    for own in headings:
        own.forget()
    left, for_headings = limit, max(_FOR_HEADINGS * limit, _LEAST_FOR_HEADINGS)
    ended: set[int] = set()
    smallest = min((int(u.cost.min()) for u in documents if len(u)), default=0)
    for i, unit in best_first(scores):
        if left < smallest:
            break
        if keep[i][unit] or i in ended:
            continue
        units = documents[i]
        company = _company(units, unit, keep[i], opened[i], headings[i], left, for_headings)
        if company is not None and company.tokens <= left:
            left -= company.tokens
            if company.of_headings <= for_headings:  # else they had to come
                for_headings -= company.of_headings
            headings[i].add(company.members)
            keep[i][company.members] = True
            opened[i][company.wrappers] = True
        elif in_order and in_order[i]:
            ended.add(i)
    return keep


class _Company(NamedTuple):
    """What keeping a unit adds: tokens, units, wrappers, and the tokens of the headings among its leads."""

    tokens: int
    members: list[int]
    wrappers: list[int]
    of_headings: int


def _company(
    units: Units,
    unit: int,
    keep: BoolArray,
    opened: BoolArray,
    headings: Headings,
    left: int,
    for_headings: float,
) -> _Company | None:
    """What keeping one unit adds: with all of its leads, the nearest, or alone.

    None: however it was kept, something would be read under a heading that is not its own.
    """
    alone = _needed(units, unit, keep, opened, left, leads=0)
    lead = units.lead[unit]
    led = lead >= 0 and bool(keep[lead])
    # Most units: nothing to be looked at that often.
    if alone.tokens > left or (led and not headings.is_heading(unit)):
        return alone
    found = [alone]
    if lead >= 0 and not led:
        near = _needed(units, unit, keep, opened, left, leads=1)
        all_ = _needed(units, unit, keep, opened, left, leads=len(units))
        found = _in_order(units, unit, (alone, near, all_), left, for_headings if keep.any() else left)
        if near.tokens > left and units.must_lead(unit, beside=True):
            apart = _needed(units, unit, keep, opened, left, leads=0, beside=True)
            found = [apart] if apart.tokens <= left or keep.any() else [alone]
    for way in found:
        wrong = headings.misread(way.members, keep)
        if wrong:  # with their own headings they may be right
            way = _joined(units, way, headings.missing(wrong, way.members, keep), opened)
            wrong = headings.misread(way.members, keep) if way.tokens <= left else wrong
        if not wrong:
            return way
    return None


def _joined(units: Units, company: _Company, more: Sequence[int], opened: BoolArray) -> _Company:
    """What keeping further headings adds to it."""
    tokens, of_headings = company.tokens, company.of_headings
    wrappers = [*company.wrappers]
    for unit in more:
        own = _opening(units, unit, opened, wrappers)
        tokens += own
        of_headings += own
    return _Company(tokens, [*company.members, *more], wrappers, of_headings)


def _in_order(
    units: Units, unit: int, ways: tuple[_Company, _Company, _Company], left: int, for_headings: float
) -> list[_Company]:
    """Ways to keep a unit (alone, with its nearest lead, with all) that fit, what is wanted most first."""
    alone, near, all_ = ways
    if near.tokens > left or near.of_headings > for_headings:
        order = [alone, near, all_]
    elif (
        all_.tokens <= left
        and all_.of_headings <= for_headings
        and all_.tokens - alone.tokens <= _FURTHER_UP * units.cost[unit]
    ):
        order = [all_, near, alone]
    else:
        order = [near, all_, alone]
    return [way for way in order if way.tokens <= left]


def _needed(
    units: Units,
    unit: int,
    keep: BoolArray,
    opened: BoolArray,
    left: int,
    *,
    leads: int,
    beside: bool = False,
) -> _Company:
    """What a unit and that many of its leads add, where they are not kept yet; no further than the room left.

    Leads that come along with what leads them do not count; those it is not kept without (``beside`` others,
    see `Units.must_lead`) come whatever the number.
    """
    tokens = of_headings = counted = 0
    members: list[int] = []
    wrappers: list[int] = []
    while unit >= 0 and not keep[unit]:
        own = _opening(units, unit, opened, wrappers)
        tokens += own
        if members and units.level is not None and units.level[unit]:
            of_headings += own
        counted += not members or units.along is None or not units.along[unit]
        members.append(unit)
        if tokens > left or (counted > leads and not units.must_lead(unit, beside=beside)):
            break
        unit = int(units.lead[unit])
    return _Company(tokens, members, wrappers, of_headings)


def _opening(units: Units, unit: int, opened: BoolArray, wrappers: list[int]) -> int:
    """Tokens of a unit and of the tags that are not there yet, which join ``wrappers``."""
    tokens = int(units.cost[unit])
    for w in units.closed_wrappers(unit, opened, wrappers):
        wrappers.append(w)
        tokens += int(units.wrapper_cost[w])
    return tokens
