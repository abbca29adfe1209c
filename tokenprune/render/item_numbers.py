"""The numbers that people see before the items of ordered lists (HTML standard, section 4.4.8)."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np

from tokenprune.arrays import BoolArray
from tokenprune.render.places import source_attributes
from tokenprune.segment.html_attributes import integer
from tokenprune.segment.html_tags import LIST_TAGS, read_tag
from tokenprune.units import Pieces

_MEMORY = "_ordered_lists"
_ORDERED = re.compile(r"<ol\b", re.I)


@dataclass
class _List:
    """A list of a page.

    Attributes:
        ordered: whether its items have numbers.
        start: what it says its first item is numbered; None where it does not.
        step: from one item to the next.
        items: number of each item, kept or not, by the piece that begins it.
    """

    ordered: bool
    start: int | None = None
    step: int = 1
    items: dict[int, int] = field(default_factory=dict)

    def first(self, count: int) -> int:
        """The number of the first of so many items."""
        return self.start if self.start is not None else 1 if self.step > 0 else count


def item_numbers(pieces: Pieces) -> dict[int, int]:
    """The number of each item of an ordered list, by the piece that begins it, whatever is kept."""
    return {i: number for found in _ordered(pieces) for i, number in found.items.items()}


def renumbered(pieces: Pieces, keep: BoolArray) -> dict[int, str]:
    """Start tags of kept items that say their number where a reader would count another, by piece.

    Args:
        pieces: of a page.
        keep: bool [p].
    """
    tags: dict[int, str] = {}
    if keep.all():
        return tags
    for found in _ordered(pieces):
        kept = [i for i in found.items if keep[i]]
        expected = found.first(len(kept))
        for i in kept:
            number, written = found.items[i], pieces.text[i]
            if number != expected and " value=" not in written:
                tags[i] = f"{written[:-1]} value={number}>"
            expected = number + found.step
    return tags


def _ordered(pieces: Pieces) -> list[_List]:
    """The ordered lists of a page; looked for once."""
    memory = vars(pieces)  # as a `cached_property` of it would
    if _MEMORY not in memory:
        memory[_MEMORY] = _find(pieces) if _ORDERED.search(pieces.source) else []
    found: list[_List] = memory[_MEMORY]
    return found


def _find(pieces: Pieces) -> list[_List]:
    found: list[_List] = []
    around: list[_List] = []
    for i in np.flatnonzero(pieces.tag).tolist() if pieces.tag is not None else ():
        name, closing = read_tag(pieces.text[i])
        if name in LIST_TAGS:
            if not closing:
                around.append(_List(name == "ol"))
                if name == "ol":
                    says = source_attributes(pieces, i)
                    around[-1].start = integer(says.get("start", ""))
                    around[-1].step = -1 if "reversed" in says else 1
                    found.append(around[-1])
            elif around:
                around.pop()
        elif name == "li" and not closing and around and around[-1].ordered:
            around[-1].items[i] = 0
    for one in found:
        number = one.first(len(one.items)) - one.step
        for i in one.items:
            value = integer(source_attributes(pieces, i).get("value", ""))
            one.items[i] = number = number + one.step if value is None else value
    return found
