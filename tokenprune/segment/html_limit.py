"""How many tokens the blocks of a page may have, and where in the page its tokens stand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tokenprune.arrays import BoolArray, IntArray
from tokenprune.segment.html_page import CLOSE, CleanPage
from tokenprune.segment.sentences import split_costly
from tokenprune.tokens import TokenCounter, counts_between


class TokenLimit:
    """A limit on the tokens of a block, its tags included; white space in front of it comes on top.

    Args:
        page: what is cut into blocks.
        written: the text of each event as it is in the output.
        counter: of tokens.
        most: tokens of a block.
    """

    def __init__(self, page: CleanPage, written: Sequence[str], counter: TokenCounter, most: int) -> None:
        self.page, self.most = page, most
        texts = [text if shown else "" for text, shown in zip(written, page.shown().tolist(), strict=True)]
        lengths = np.fromiter(map(len, texts), dtype=np.int64, count=len(texts))
        self._bounds = np.concatenate(([0], np.cumsum(lengths)))
        self._starts = counter.starts("".join(texts))
        self._before = np.searchsorted(self._starts, self._bounds)  # tokens before each event
        self._tokens: list[int] = self._before.tolist()

    def holds(self, i: int, j: int) -> bool:
        """Whether the events from ``i`` up to ``j`` are no more than a block may have."""
        return self._tokens[j] - self._tokens[i] <= self.most

    def hold(self, i: IntArray, j: IntArray) -> BoolArray:
        """The same for many ranges of events, bool [r]."""
        found: BoolArray = self._before[j] - self._before[i] <= self.most
        return found

    def split(self, text: str, starts: list[int], i: int, edges: Sequence[int]) -> list[int]:
        """Cut slices that are more than a block may have, as `split_costly` does.

        Args:
            text: what some events read.
            starts: where its slices start; ascending, from 0.
            i: the first of the events.
            edges: where each of them begins in the text, and where the last one ends.
        """
        return split_costly(text, starts, self.most, self._places(i, edges))

    def counts(self, bounds: Sequence[int], i: int, edges: Sequence[int]) -> list[int]:
        """Count the tokens between bounds in such a text, those of the tags there included."""
        counts: list[int] = counts_between(self._places(i, edges), np.asarray(bounds)).tolist()
        return counts

    def _places(self, i: int, edges: Sequence[int]) -> IntArray:
        """Where in such a text the tokens start, int64 [tokens], ascending.

        Those of a start tag count to what is behind it, and those of an end tag to what is in front.
        """
        j, at = i + len(edges) - 1, np.asarray(edges, dtype=np.int64)
        starts = self._starts[self._tokens[i] : self._tokens[j]]
        event = np.searchsorted(self._bounds[i : j + 1], starts, side="right") - 1
        inside = np.minimum(starts - self._bounds[i + event], np.maximum(np.diff(at)[event] - 1, 0))
        inside -= self.page.kinds[i + event] == CLOSE
        found: IntArray = np.maximum.accumulate(np.maximum(at[event] + inside, 0))
        return found
