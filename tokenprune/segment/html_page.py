"""A cleaned page: a flat list of tags and texts, and how its text is written."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from tokenprune.arrays import BoolArray, IntArray
from tokenprune.points import listed
from tokenprune.segment.invisible import Dropped

# A NUL, which is in no page, stands between texts that are escaped at once.
_AMPERSAND = re.compile(r"&(?=[a-zA-Z0-9#\0]|\Z)")
_LESS = re.compile(r"<(?=[a-zA-Z/!?\0]|\Z)")
_SPACES = re.compile(r" [ \t\n\r\f]++|[\t\n\r\f][ \t\n\r\f]*+")

OPEN, CLOSE, TEXT, BREAK = range(4)


def fold(text: str) -> str:
    """Write all white space of a text as browsers show it, as single spaces."""
    return _SPACES.sub(" ", text)


@dataclass
class CleanPage:
    """A cleaned page as a flat list of events in source order.

    Attributes:
        kinds: OPEN, CLOSE, TEXT or BREAK (a ``<br>``) of each event, int64 [e].
        nodes: the element an event opens or closes; for the others the element around it, int64 [e].
        begins: where the event's source starts, int64 [e]; ascending.
        afters: where it ends, int64 [e].
        text: output of each event: a tag, or escaped text.
        tag: name of each element.
        parent: element around each element, -1 at the top.
        alive: whether an element's tags are in the output.
        bare: whether an element holds words, line breaks or inline elements of its own; the last is the top
            of the page.
        dropped: (start, end, reason) of source ranges that are not in the output, ascending.
        filled: events of cells in whose text empty cells stand before the tag, ascending.
        above: of rows in tables whose cells span rows, the row above with the cell that reaches into each, -1
            for none.
    """

    kinds: IntArray
    nodes: IntArray
    begins: IntArray
    afters: IntArray
    text: list[str]
    tag: list[str]
    parent: list[int]
    alive: list[bool]
    bare: list[bool]
    dropped: list[Dropped] = field(default_factory=list)
    filled: list[int] = field(default_factory=list)
    above: dict[int, int] = field(default_factory=dict)

    @cached_property
    def kind(self) -> list[int]:
        """The kinds as a list."""
        return listed(self.kinds)

    @cached_property
    def node(self) -> list[int]:
        """The nodes as a list."""
        return listed(self.nodes)

    @cached_property
    def begin(self) -> list[int]:
        """Where events begin as a list."""
        return listed(self.begins)

    @cached_property
    def after(self) -> list[int]:
        """Where events end as a list."""
        return listed(self.afters)

    def shown(self) -> BoolArray:
        """Whether each event is in the output, bool [e]."""
        tags = (self.kinds == OPEN) | (self.kinds == CLOSE)
        shown: BoolArray = ~tags
        shown[tags] = np.asarray(self.alive, dtype=bool)[self.nodes[tags]]
        return shown

    def strip(self) -> None:
        """Forget line ends at the end."""
        end = len(self.text)
        while end and self.kinds[end - 1] == TEXT and self.text[end - 1] == "\n":
            end -= 1
        if end < len(self.text):
            del self.text[end:]
            self.kinds, self.nodes = self.kinds[:end], self.nodes[:end]
            self.begins, self.afters = self.begins[:end], self.afters[:end]
            for name in ("kind", "node", "begin", "after"):
                self.__dict__.pop(name, None)

    def without(self, gone: Collection[int]) -> CleanPage:
        """Return the page without some events."""
        at = sorted(gone)
        kinds, nodes, begins, afters = (
            np.delete(c, at) for c in (self.kinds, self.nodes, self.begins, self.afters)
        )
        texts = [t for i, t in enumerate(self.text) if i not in gone]
        return replace(self, kinds=kinds, nodes=nodes, begins=begins, afters=afters, text=texts)


def escape_text(text: str) -> str:
    """Escape only what would read as markup: fewer tokens than escaping every sign, and it parses back."""
    if "&" in text:
        text = _AMPERSAND.sub("&amp;", text)
    return _LESS.sub("&lt;", text) if "<" in text else text
