"""Wrappers that wrap a single element: of the two, one is enough."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from tokenprune.arrays import BoolArray, IntArray
from tokenprune.segment.html_tags import ENDED_BY, ENDED_BY_MASK, ENDERS, GENERIC, STRUCTURAL

# That a wrapper inside an element stays for the element's sake, beside the bits of ``ENDERS``.
_HELD = 1 << len(ENDERS)


class Wrappers:
    """Settles elements from the inside to the outside.

    Args:
        tag: name of each element that has opened, in that order.
        parent: int64 [m], the element around each one, -1 at the top.
        stays: bool [m], whether its tags are in the output so far.
        block: bool [m], whether they are and it is a block.
        own: bool [m], whether it holds text or inline elements of its own.
        kids: int64 [m], how many of the blocks right in it stay.
    """

    def __init__(
        self,
        tag: list[str],
        parent: IntArray,
        stays: BoolArray,
        block: BoolArray,
        own: BoolArray,
        kids: IntArray,
    ) -> None:
        self.tag, self._around, self._block = tag, parent, block
        self.parent: list[int] = parent.tolist()
        self.alive: list[bool] = stays.tolist()
        self.own: list[bool] = own.tolist()
        self.kids: list[int] = kids.tolist()
        self._wrapping = np.flatnonzero(stays & ~own & (kids == 1))
        self._left: dict[int, int] = {}  # what is left of an element, where that is one inside it
        self._held: set[int] = set()  # elements of which a wrapper stays for the sake of what is around
        self._like: dict[int, int] = {}  # an element -> the one inside it whose blocks it has taken over
        self._blocks: dict[int, list[int]] = {}

    def settle(self) -> None:
        """Take out wrappers and wrapped elements that are not needed."""
        if not len(self._wrapping):
            return
        self._group()
        for node in self._wrapping[::-1].tolist():  # an element opens behind those around it
            if self.tag[node] in GENERIC:
                self._unwrap(node)
            elif self.tag[node] in STRUCTURAL:
                self._take_over(node)

    def _group(self) -> None:
        """Put the blocks that stay together by the element around them."""
        found = np.flatnonzero(self._block)
        around = self._around[found]
        order = np.argsort(around, kind="stable")
        found, around = found[order], around[order]
        edges = [0, *(np.flatnonzero(np.diff(around)) + 1).tolist(), len(found)]
        outer, inner = around.tolist(), found.tolist()
        self._blocks = {outer[a]: inner[a:b] for a, b in pairwise(edges)}

    def _only(self, node: int) -> int:
        """What is left of the last block in an element."""
        last = self._blocks[self._like.get(node, node)][-1]
        return self._left.get(last, last)

    def _wraps_one(self, node: int) -> bool:
        return self.kids[node] == 1 and not self.own[node]

    def _unwrap(self, node: int) -> None:
        """Take out a wrapper around a single block.

        It stays where without it the tags of what it wraps would end the element around it.
        """
        parent, left = self.parent[node], node
        around = self.tag[parent] if parent >= 0 else ""
        while self.tag[left] in GENERIC and self._wraps_one(left):
            only = self._only(left)
            if self.tag[only] in ENDED_BY.get(around, ()):
                self._held.add(node)
                break
            self.alive[left] = False
            left = only
        if left != node:
            self._left[node] = left

    def _take_over(self, node: int) -> None:
        """Take out the only block in an element if what it holds can stand there just so."""
        while self._wraps_one(node) and self._gives_way(only := self._only(node), self.tag[node]):
            self.alive[only] = False
            self.kids[node], self.own[node] = self.kids[only], self.own[only]
            self._like[node] = self._like.get(only, only)

    def _gives_way(self, node: int, around: str) -> bool:
        if self.tag[node] not in GENERIC and self.tag[node] != "p":
            return False
        enders = self._enders(node)
        held = enders & _HELD and not self._wraps_one(node)
        return not held and not enders & ENDED_BY_MASK.get(around, 0)

    def _enders(self, node: int) -> int:
        """Which of the blocks in an element are taken for the end of other elements, as bits."""
        found = 0
        for block in self._blocks.get(self._like.get(node, node), ()):
            found |= ENDERS.get(self.tag[self._left.get(block, block)], 0)
            found |= _HELD if block in self._held else 0
        return found
