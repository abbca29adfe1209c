"""What a page says about being seen, put together: attributes, style sheets and how far elements reach."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import chain

import numpy as np

from tokenprune.arrays import IntArray
from tokenprune.segment.colours import CLEAR, same
from tokenprune.segment.css import FONT
from tokenprune.segment.html_hidden import ANNOTATED, TINY, Look
from tokenprune.segment.html_math import annotated
from tokenprune.segment.html_names import codes_among
from tokenprune.segment.html_nesting import Nesting
from tokenprune.segment.html_reach import Reach, reach
from tokenprune.segment.html_repair import owns_text
from tokenprune.segment.html_scopes import nests
from tokenprune.segment.html_sheets import Rule, Sheet
from tokenprune.segment.html_source import CLOSES, ENDED, KNOWN, NO_TAG, OPENS, Source, attributes_of
from tokenprune.segment.html_tags import VOID

Ranges = list[tuple[int, int]]

NOTHING = Reach({}, {})
_MOST_PAIRS = 1_000  # of colours that are compared: a page with more of them is read
_PAGE = frozenset(4 * KNOWN.index(name) + OPENS for name in ("html", "head", "body"))
_FOREIGN = frozenset(4 * KNOWN.index(name) + kind for name in ("svg", "math") for kind in (OPENS, ENDED))


def unseen(
    page: Source, sheet: Sheet | None, nesting: Nesting | None, doubted: Collection[str] = ()
) -> tuple[Reach, Ranges | None]:
    """Find out what of a page is not seen, by tag.

    Args:
        page: scanned for what is hidden.
        sheet: the only style sheet whose rules count.
        nesting: of its tags, if they nest.
        doubted: reasons (of ``UNDONE``) that do not count where an element's own attributes give them.

    Returns:
        What is not seen, and the ranges of tags, first and last, outside of which all is; None: not known.
    """
    looks: dict[int, Look] = {}
    rules: dict[int, Rule] = {}
    if page.looks:
        looks = {k: page.looks[page.tag[k]] for k in _places(page.tag, page.looks)}
    if doubted:
        looks = {k: look.without(doubted) for k, look in looks.items()}
    if sheet:
        for k in _places(page.tag, _ruled(page, sheet)):
            if page.code[k] & 3 in (OPENS, ENDED):
                rule = sheet.match(page.names[page.code[k] >> 2], page.attributes(k))
                if rule is not None:
                    looks[k], rules[k] = sheet.look(rule, looks.get(k)), rule
    for signs, tex in annotated(page):
        looks[signs], looks[tex] = Look(reason=ANNOTATED), Look(visible=True)
    foreign = np.flatnonzero(codes_among(page.codes, _FOREIGN)).tolist()
    if not foreign and not any(look.may_hide for look in looks.values()):
        return NOTHING, []
    ranges = None
    if nesting is not None and _PAGE.isdisjoint(map(page.code.__getitem__, looks)) and nests(page, nesting):
        ranges = _outermost(looks, set(foreign), nesting.close)
    tags = chain.from_iterable(_tags(page, *r) for r in ranges) if ranges is not None else _tags(page)
    return reach(tags, looks, rules, page, quirks=page.quirks), ranges


def _places(tags: list[str], chosen: Collection[str]) -> list[int]:
    """Where some tags stand."""
    found = np.fromiter(map(chosen.__contains__, tags), dtype=bool, count=len(tags))
    places: list[int] = np.flatnonzero(found).tolist()
    return places


def _ruled(page: Source, sheet: Sheet) -> set[str]:
    """Tags, as they are written, that a rule of a style sheet may hide."""
    return {tag for tag in set(page.tag) if tag and tag[0] != "/" and sheet.concerns(attributes_of(tag))}


def _outermost(looks: Mapping[int, Look], foreign: set[int], close: IntArray) -> Ranges:
    """The elements to read, none inside another: what they and those in them say hides something.

    Where nothing but whole elements is hidden, these are enough: no other one takes part in it.
    """
    ranges: Ranges = []
    for first, last, inside in _nested(sorted({*looks, *foreign}), close):
        said = [looks[k] for k in inside if k in looks]
        drawn = any(k in foreign for k in inside)
        if _may_hide(said) or (drawn and any(_colours_or_sizes(look) for look in said)):
            ranges.append((first, last))
        else:
            whole = [k for k in inside if k in foreign or looks[k].reason]
            ranges += [(k, end) for k, end, _ in _nested(whole, close)]
    return ranges


def _colours_or_sizes(look: Look) -> bool:
    """Whether what is drawn inside may be seen or not for what an element around it says."""
    known = look.font or isinstance(look.ink, tuple) or isinstance(look.ground, tuple)
    return bool(known) and not look.reason


def _nested(tags: Sequence[int], close: IntArray) -> Iterator[tuple[int, int, list[int]]]:
    """Those of some start tags that lie in none of the others: tag, end tag, and all that lie in it."""
    last = -1
    inside: list[int] = []
    for k in tags:
        if k > last:
            if inside:
                yield inside[0], last, inside
            last, inside = int(close[k]), []
        inside.append(k)
    if inside:
        yield inside[0], last, inside


def _may_hide(looks: Sequence[Look]) -> bool:
    """Whether elements in one another may hide text though none of them is hidden whole."""
    smallest = FONT
    inks, grounds = set(), set()
    for look in looks:
        if look.visible is False or look.flat:
            return True
        if isinstance(look.ink, tuple):
            inks.add(look.ink)
        if isinstance(look.ground, tuple):
            grounds.add(look.ground)
        if look.font is not None:
            factor, px = look.font
            smallest = min(smallest, px) if not factor else smallest * min(1.0, factor)
    if smallest <= TINY or CLEAR in inks or len(inks) * len(grounds) > _MOST_PAIRS:
        return True
    return any(same(ink, ground) for ink in inks for ground in grounds)


def _tags(page: Source, first: int = 0, last: int | None = None) -> Iterator[tuple[int, str]]:
    """Tags and texts from ``first`` to the end tag ``last`` as `reach` asks for them."""
    for k in range(first, len(page.code) if last is None else last + 1):
        code = page.code[k]
        kind, name = code & 3, page.names[code >> 2]
        if kind == CLOSES:
            if name != "plaintext" or page.code[k - 1] != code - CLOSES:
                yield -1, name
        elif kind != NO_TAG:
            yield k, name
            if kind == ENDED and name not in VOID and page.xml:
                yield -1, name
        if (k != last or kind == ENDED) and page.words[k] and not owns_text(page, k):
            yield k, ""
