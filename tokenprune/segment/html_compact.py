"""The shortest markup that parses to the same tree: what the HTML standard lets an author leave out.

In a table of short cells the tags are more tokens than the words. The standard (section 13.1.2.4, "Optional
tags") makes most end tags optional, and white space between cells means nothing. Divisions that only group
other blocks go as well, tags only: their blocks stay apart by themselves.

Every rule looks at all children of an element, never at the next one, because pruning may take any of them.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from tokenprune.arrays import BoolArray, IntArray
from tokenprune.segment.html_page import BREAK, CLOSE, TEXT, CleanPage
from tokenprune.segment.html_tags import BLOCKS, CELLS, ENDED_BY
from tokenprune.segment.html_tree import nearest

_ROWS = frozenset(("tr", "caption"))
# Element -> parent -> all that the parent may hold for the element's end tag to be optional. Not dt and dd:
# libxml2 does not end one of them at the next of its kind.
_OPTIONAL_END: dict[str, dict[str, frozenset[str]]] = {
    "td": {"tr": CELLS},
    "th": {"tr": CELLS},
    "tr": {"table": _ROWS | {"thead"}, "tbody": _ROWS, "thead": _ROWS, "tfoot": _ROWS},
    "li": dict.fromkeys(("ul", "ol", "menu", "dir"), frozenset(("li",))),
    "option": {"select": frozenset(("option",)), "optgroup": frozenset(("option",))},
}
# Blocks that end an open paragraph for every parser, old ones included.
_ENDS_P = frozenset("p div h1 h2 h3 h4 h5 h6 ul ol dl pre table blockquote form fieldset address".split())
# Elements whose own end ends a paragraph in them.
_HOLDS_P = frozenset("div section article main header footer nav aside blockquote li dd td th form".split())
# Elements that only group, and what stands apart without them.
_DIVISIONS = frozenset("div section article main hgroup form".split())
_STAND_APART = (_ENDS_P - {"form", "fieldset", "address"}) | _DIVISIONS | {"nav", "aside", "header", "footer"}
_IN_TABLE = frozenset(("caption", "thead", "tbody"))

# Names by number: 0 for what is in no rule. A set of names is a number whose bits they are.
_NUMBERS = {name: n for n, name in enumerate(sorted(BLOCKS), 1)}


def _bits(names: Iterable[str]) -> int:
    return sum(1 << _NUMBERS.get(name, 0) for name in frozenset(names))


def _each(names: Iterable[str]) -> BoolArray:
    """Whether each number is of one of these names."""
    found = np.zeros(len(_NUMBERS) + 1, dtype=bool)
    found[[_NUMBERS[name] for name in names]] = True
    return found


_IS_DIVISION, _MAY_HOLD_P = _each(_DIVISIONS), _each(_HOLDS_P)
_P, _TR, _TBODY, _TABLE = (_NUMBERS[name] for name in ("p", "tr", "tbody", "table"))
# What ends an element, and what all may stand beside an element in the one around it (numbers of both) for
# its end tag to be optional.
_ENDS = np.zeros(len(_NUMBERS) + 1, dtype=np.int64)
_BESIDE = np.zeros((len(_NUMBERS) + 1,) * 2, dtype=np.int64)
for _name, _enders in ENDED_BY.items():
    _ENDS[_NUMBERS[_name]] = _bits(_enders)
for _name, _parents in _OPTIONAL_END.items():
    for _parent, _all in _parents.items():
        _BESIDE[_NUMBERS[_name], _NUMBERS[_parent]] = _bits(_all)


def compact(page: CleanPage) -> list[str]:
    """Return the text of every event of a page, "" where it can be left out."""
    if not page.tag:
        return page.text
    alive = np.asarray(page.alive)
    number = np.fromiter((_NUMBERS.get(t, 0) for t in page.tag), dtype=np.int64, count=len(page.tag))
    plain = _Structure(page, number, alive)
    gone = plain.only_groups()
    structure = _Structure(page, number, alive & ~gone) if gone.any() else plain
    kinds, nodes = page.kinds, page.nodes
    left_out = (kinds != TEXT) & (kinds != BREAK)
    ended = structure.end_by_themselves()
    left_out &= gone[nodes] | ((kinds == CLOSE) & ended[nodes])
    # A row holds nothing but white space and cells, or it is bare.
    left_out |= (kinds == TEXT) & (nodes >= 0) & (number[nodes] == _TR) & ~np.asarray(page.bare)[nodes]
    texts = np.empty(len(page.text), dtype=object)
    texts[:] = page.text
    texts[left_out] = ""
    for k in page.filled:
        if ended[nodes[k]]:  # what stands beside it ends an empty cell as well
            texts[k] = texts[k].replace("</td>", "")
    written: list[str] = texts.tolist()
    return written


class _Structure:
    """What every element holds, once only some of them are there, bool [m].

    Attributes:
        number: int64 [m], of each one's name.
        around: int64 [m], the element around it; -1 for none, which is also the last place of what follows.
        children: int64 [m + 1], names of what is right in it, as bits.
        bare: bool [m + 1], whether it holds anything else.
    """

    def __init__(self, page: CleanPage, number: IntArray, there: BoolArray) -> None:
        self.number, self.there = number, there
        parent = np.asarray(page.parent, dtype=np.int64)
        self.around = nearest(parent, there)[parent]
        self.children = np.zeros(len(parent) + 1, dtype=np.int64)
        np.bitwise_or.at(self.children, self.around[there], np.int64(1) << self.number[there])
        self.bare = np.asarray(page.bare)
        self.bare[self.around[~there & self.bare[:-1]]] = True

    def only_groups(self) -> BoolArray:
        """Whether an element's tags say nothing: its children stand apart without them."""
        around, children = self.around, self.children[:-1]
        division = _IS_DIVISION[self.number]
        might = self.there & ~self.bare[:-1] & (children != 0)
        apart = might & division & (children & ~_bits(_STAND_APART) == 0)
        # Whether without it the tags in it would end the one around it.
        outer = nearest(around, ~division)[around]
        apart &= (outer < 0) | (children & _ENDS[self.number[outer]] == 0)
        rows = might & (self.number == _TBODY) & (children & ~_bits(_ROWS) == 0) & (around >= 0)
        rows &= (self.number[around] == _TABLE) & ~self.bare[around]
        rows &= self.children[around] & ~_bits(_IN_TABLE) == 0
        found: BoolArray = apart | rows
        return found

    def end_by_themselves(self) -> BoolArray:
        """Whether an element's end tag can go, whichever of the elements around it are pruned."""
        around = self.around
        beside, outer = self.children[around], np.where(around < 0, 0, self.number[around])
        paragraph = (
            (self.number == _P) & ((around < 0) | _MAY_HOLD_P[outer]) & (beside & ~_bits(_ENDS_P) == 0)
        )
        optional = (around >= 0) & (beside & ~_BESIDE[self.number, outer] == 0)
        found: BoolArray = ~self.bare[around] & (paragraph | optional)
        return found
