"""A prefix cache on paper: which tokens of a prompt an engine would have computed before."""

from __future__ import annotations

from collections import OrderedDict

from tokenprune.tokens import TokenCounter

BLOCK = 16  # tokens, vLLM's default


class PrefixCache:
    """Blocks of tokens known by all that stands before them, the least recently used leaving first.

    As in vLLM: only whole blocks count, a block is found only when all blocks before it are the same, and the
    last token of a prompt is computed in any case. Prompts are taken one after the other.
    """

    def __init__(self, counter: TokenCounter, capacity_tokens: int) -> None:
        """Make an empty cache of at most ``capacity_tokens`` tokens; 0 never finds anything."""
        self._counter = counter
        self._capacity = capacity_tokens // BLOCK
        self._blocks: OrderedDict[int, None] = OrderedDict()

    def read(self, prompt: str) -> tuple[int, int]:
        """Return the tokens of a prompt and how many of them were there already; it is there from now on."""
        starts = self._counter.starts(prompt)
        tokens = len(starts)
        if not self._capacity or not tokens:
            return tokens, 0
        edges = [*starts[::BLOCK].tolist(), len(prompt)]
        key, cached, known, keys = 0, 0, True, []
        for n in range(tokens // BLOCK):
            key = hash((key, prompt[edges[n] : edges[n + 1]]))
            keys.append(key)
            known = known and key in self._blocks
            cached += BLOCK if known else 0
        # The end of a chain leaves before its beginning, without which it could not be found.
        for key in reversed(keys):
            self._blocks[key] = None
            self._blocks.move_to_end(key)
        while len(self._blocks) > self._capacity:
            self._blocks.popitem(last=False)
        # The last token is always computed: its whole block is, as only whole blocks count.
        return tokens, min(cached, (tokens - 1) // BLOCK * BLOCK)
