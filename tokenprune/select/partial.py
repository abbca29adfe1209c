"""Use up what is left of a budget when no further unit fits whole: keep the beginning of one.

Blocks and sentences are cut for scorers, not for budgets: a paragraph of lines, a text without full stops or
a row of a wide table can be larger than all that is left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from tokenprune.arrays import BoolArray, FloatArray
from tokenprune.segment.divide import Divisible
from tokenprune.select.headings import Headings
from tokenprune.select.simple import best_first
from tokenprune.units import Units

USED = 0.9  # share of a budget that counts as used
SMALL = 24  # a budget of fewer tokens is about one sentence
_WORDS = 8  # a smaller budget is not worth the beginning of a word
_NUMBER = 24  # characters of a number that is read as one; longer runs of digits are data
_TRIES = 12  # units looked at
_STEPS = 16  # cuts counted per unit; a place is halved upon at the latest after half of them
_CHARACTERS = 3.0  # a token holds about so many, to begin with

Count = Callable[[int, Units, BoolArray], int]


@dataclass
class _State:
    documents: list[Units]
    masks: list[BoolArray]
    tokens: list[int]  # of each document
    limit: int
    need: float
    count: Count
    cut: list[list[int]] = field(default_factory=list)  # units of each document that were cut

    @property
    def total(self) -> int:
        return sum(self.tokens)

    @property
    def done(self) -> bool:
        return self.total >= self.need


def use_up(
    documents: Sequence[Units],
    scores: Sequence[FloatArray],
    masks: Sequence[BoolArray],
    limit: int,
    count: Count,
    in_order: Sequence[bool],
) -> tuple[list[Units], list[BoolArray], list[list[int]]]:
    """Keep beginnings of the best units that do not fit, where less than 90 % of a budget is used.

    The cut stands at the end of a sentence, else between words, else between grapheme clusters: the first of
    these that leaves less than a tenth of the budget unused. No number is cut that is one to a reader, nor
    any behind other words of its unit, and in budgets of less than 8 tokens no word. Where the tags around
    the words alone do not fit, words are kept without them. What is used up already costs one sum.

    Args:
        documents: segmented documents.
        scores: float64 [n] per document; minus infinity for a unit of which nothing may be kept.
        masks: bool [n] per document, what is kept so far.
        limit: tokens of all documents together.
        count: exact tokens of document i, as it is cut into units, rendered under a mask.
        in_order: per document, whether only the first unit that is not kept may be cut (words without tags
            are taken from the next ones as well).

    Returns:
        Documents and masks, the cut units followed by their rests at the end; per document, the units that
        were cut, in the order of their rests.
    """
    tokens = [count(n, u, m) if m.any() else 0 for n, (u, m) in enumerate(zip(documents, masks, strict=True))]
    state = _State(list(documents), list(masks), tokens, limit, USED * limit, count, [[] for _ in documents])
    for bare in (False, True):
        for tries, (n, unit) in enumerate(_candidates(state, scores, in_order, bare=bare), start=1):
            _keep_part(state, n, unit, bare=bare, sentences=not in_order[n])
            if state.done or tries >= _TRIES:
                break
        if state.done:
            break
    return state.documents, state.masks, state.cut


def _candidates(
    state: _State, scores: Sequence[FloatArray], in_order: Sequence[bool], *, bare: bool
) -> Iterator[tuple[int, int]]:
    """Units that may be cut, best first, but for those whose tags alone are more than what is left."""
    if state.done:
        return
    left = [np.where(m[: len(s)], -np.inf, s) for m, s in zip(state.masks, scores, strict=True)]
    opened = [u.open_wrappers(m) for u, m in zip(state.documents, state.masks, strict=True)]
    ended = {n for n, cut in enumerate(state.cut) if cut and in_order[n] and not bare}
    for n, unit in best_first(left):
        if n in ended or unit in state.cut[n]:
            continue
        if in_order[n] and not bare:
            ended.add(n)
        if bare or _tags(state.documents[n], unit, opened[n]) < state.limit - state.total:
            yield n, unit


def _tags(units: Units, unit: int, opened: BoolArray) -> int:
    """Tokens of the wrappers around a unit that are not open yet."""
    return int(units.wrapper_cost[units.closed_wrappers(unit, opened)].sum())


def _keep_part(state: _State, n: int, unit: int, *, bare: bool, sentences: bool) -> None:
    """Keep as much of one unit as fits, with what leads it where that leaves room for it."""
    units, keep = state.documents[n], state.masks[n]
    if bare and units.pieces.tag is None:
        return
    part = Divisible(units, unit, keep, bare=bare, last=not sentences)
    if not part.possible or not part.length:
        return
    room = state.limit - state.total
    leads: list[int] = []
    at, must, beside = int(units.lead[unit]), 0, bool(keep.any())
    while at >= 0 and not keep[at]:
        must += must == len(leads) and units.must_lead(leads[-1] if leads else unit, beside=beside)
        leads.append(at)
        at = int(units.lead[at])
    if bare and (must or part.terms) and beside:  # it would be read as part of another entry
        return
    with_leads = leads and not bare and int(units.cost[leads].sum()) <= room // 2
    least = [] if bare else leads[:must]
    headings = Headings(units)
    headings.add(np.flatnonzero(keep).tolist())
    ways = [leads, least] if with_leads else [least]
    if leads and not bare and headings.misread([unit, *least], keep):
        ways += [leads[:1], leads]  # better much of a heading than words below another one
    for brought in ways:
        if headings.misread([unit, *brought], keep):
            continue
        mask = keep.copy()
        mask[[unit, *brought]] = True
        cut, tokens = _longest(state, n, part, mask, sentences=sentences)
        if not cut or tokens <= state.tokens[n]:
            continue
        divided = units if part.whole(cut) else part.divide(cut)
        if divided is None:
            continue
        state.documents[n], state.tokens[n] = divided, tokens
        state.masks[n] = mask if divided is units else np.append(mask, False)
        if divided is not units:
            state.cut[n].append(unit)
        return


def _longest(state: _State, n: int, part: Divisible, mask: BoolArray, *, sentences: bool) -> tuple[int, int]:
    """Find where to cut so that the most fits, and the tokens of the document then; 0: nothing fits."""
    others = state.total - state.tokens[n]
    limit = state.limit - others
    longer = np.append(mask, False)
    counted: dict[int, int] = {}

    def tokens(at: int) -> int:
        if at not in counted:
            divided = None if part.whole(at) else part.divide(at, exact=False)
            now, kept = (part.units, mask) if divided is None else (divided, longer)
            counted[at] = state.count(n, now, kept)
        return counted[at]

    low, high = 0, part.length + 1  # what fits, what does not
    guess = int((limit - state.tokens[n]) * _CHARACTERS)
    for step in range(_STEPS):
        at = part.cluster(min(guess, part.length))
        if at <= low:
            at = part.next_cluster(low)
        if at <= low or at >= high:
            break
        spare = limit - tokens(at)
        low, high = (at, high) if spare >= 0 else (low, at)
        if not spare:
            break
        guess = at + round(spare * _CHARACTERS) + (1 if spare > 0 else -1)
        if step >= _STEPS // 2 or not low < guess < high:
            guess = (low + high) // 2
    if not part.text[part.least : low].strip():
        return 0, 0
    for nicer in (part.sentence_end(low) if sentences else 0, part.word_end(low)):
        if part.text[part.least : nicer].strip() and state.need <= others + tokens(nicer) <= state.limit:
            return nicer, tokens(nicer)
    # The beginning of a number is another number: others may fill what it leaves.
    number = part.number_at(low)
    behind = bool(number) and bool(part.text[: part.word_end(low)].strip())
    if state.limit < _WORDS or behind or 0 < len(number) <= _NUMBER:
        low = part.word_end(low)
    return (low, tokens(low)) if part.text[part.least : low].strip() else (0, 0)


def only_the_best(
    scores: Sequence[FloatArray], masks: Sequence[BoolArray], in_order: Sequence[bool], limit: int
) -> list[FloatArray] | None:
    """Return scores that leave nothing but the best unit, where a small budget has no room for it whole.

    What is worse but shorter would fit, and use up what the beginning of the best one needs.

    Args:
        scores: float64 [n] per document; minus infinity for a unit of which nothing may be kept.
        masks: bool [n] per document, what is kept.
        in_order: per document, whether it is kept from one end on, whatever fits.
        limit: tokens of all documents together.

    Returns:
        float64 [n] per document, all but one minus infinity; None where the best unit is kept.
    """
    best = next(best_first(scores), None) if limit < SMALL else None
    if best is None or in_order[best[0]] or masks[best[0]][best[1]]:
        return None
    alone = [np.full(len(s), -np.inf) for s in scores]
    alone[best[0]][best[1]] = scores[best[0]][best[1]]
    return alone
