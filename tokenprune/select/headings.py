"""Under which headings kept units stand for a reader of the output.

A paragraph that is kept without its heading is read as part of the section whose heading stands above it:
the price of one plan becomes that of another. What stands under which heading is known from the whole page;
here it is told whether the kept ones say the same.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Collection, Iterator, Sequence

import numpy as np

from tokenprune.arrays import BoolArray
from tokenprune.units import Units


class Headings:
    """The kept headings of one document; none, to begin with.

    Args:
        units: of the document.
    """

    def __init__(self, units: Units) -> None:
        n = len(units)
        self._level: list[int] = [0] * n if units.level is None else units.level.tolist()
        self._heading = [level > 0 for level in self._level]
        self._kept: list[int] = []
        self.any = any(self._heading)
        if not self.any:
            return
        self._lead: list[int] = units.lead.tolist()
        self._before = [-1] * n  # the heading that stands before it in the page
        last = -1
        for i in range(n):
            self._before[i] = last
            last = i if self._heading[i] else last

    def forget(self) -> None:
        """Begin anew, with nothing kept."""
        self._kept = []

    def add(self, members: Sequence[int]) -> None:
        """Note that units are kept."""
        if self.any:
            self._kept = self._with(members)

    def is_heading(self, unit: int) -> bool:
        """Whether a unit is a heading."""
        return self._heading[unit]

    def _with(self, members: Sequence[int]) -> list[int]:
        kept = self._kept.copy()
        for i in members:
            if self._heading[i]:
                insort(kept, i)
        return kept

    def misread(self, members: Sequence[int], keep: BoolArray) -> list[int]:
        """What would be read, with further units, as if it stood under a heading that is not its own.

        Args:
            members: units that are not kept yet.
            keep: bool [n], those that are.
        """
        if not self.any:
            return []
        new = [i for i in members if self._heading[i]]
        kept = self._with(new) if new else self._kept
        if not kept:
            return []
        wrong = [i for i in members if self._is_wrong(i, kept)]
        for head in new:  # what it stands above now
            at = bisect_left(kept, head) + 1
            end = kept[at] if at < len(kept) else len(keep)
            under = np.flatnonzero(keep[head + 1 : end]) + head + 1
            wrong += [i for i in under.tolist() if self._is_wrong(i, kept)]
            while at < len(kept) and self._level[kept[at]] > self._level[head]:
                if self._is_wrong(kept[at], kept):
                    wrong.append(kept[at])
                at += 1
        return wrong

    def missing(self, wrong: Sequence[int], kept: Collection[int], keep: BoolArray) -> list[int]:
        """The headings of some units that are not kept."""
        found = (i for unit in wrong for i in self._leads(unit) if self._heading[i])
        return sorted({i for i in found if not keep[i] and i not in kept})

    def _is_wrong(self, unit: int, kept: list[int]) -> bool:
        """Whether the kept heading that a reader would put a unit under is none of its own."""
        at = bisect_left(kept, unit) - 1
        if self._heading[unit]:
            while at >= 0 and self._level[kept[at]] >= self._level[unit]:
                if self._lead[kept[at]] == self._lead[unit]:
                    return False  # it stands where its sibling stands
                at -= 1
        if at < 0 or kept[at] == self._before[unit]:
            return False
        return kept[at] not in self._leads(unit)

    def _leads(self, unit: int) -> Iterator[int]:
        unit = self._lead[unit]
        while unit >= 0:
            yield unit
            unit = self._lead[unit]
