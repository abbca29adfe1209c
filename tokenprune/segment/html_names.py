"""What is said of tag names, as columns by place in `Source.names`."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokenprune.arrays import BoolArray
from tokenprune.segment.html_source import KNOWN


class PerName:
    """What a function says of names; it is asked once for those that each page may have.

    Args:
        says: name -> what is said of it.
        dtype: of that.
    """

    def __init__(self, says: Callable[[str], Any], dtype: type) -> None:
        self._says, self._dtype = says, dtype
        self._known = self._ask(KNOWN)

    def _ask(self, names: list[str]) -> NDArray[Any]:
        return np.asarray([self._says(name) for name in names], dtype=self._dtype)

    def of(self, names: list[str]) -> NDArray[Any]:
        """Return the column for the names of a page, of which the first are ``KNOWN``."""
        if len(names) == len(KNOWN):
            return self._known
        return np.concatenate((self._known, self._ask(names[len(KNOWN) :])))


def among(*names: Collection[str]) -> PerName:
    """Whether a name is in each of some classes, bool [names, classes]."""
    return PerName(lambda name: [name in some for some in names], bool)


def codes_among(codes: NDArray[np.int64], chosen: Collection[int]) -> BoolArray:
    """Whether each code is one of some, bool [n]."""
    table = np.zeros(max(int(codes.max(initial=0)), max(chosen, default=0)) + 1, dtype=bool)
    table[list(chosen)] = True
    found: BoolArray = table[codes]
    return found
