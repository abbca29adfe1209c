"""What was used last, within so many bytes: memories of the package and of the server."""

from __future__ import annotations

from operator import itemgetter
from typing import Generic, TypeVar

from cachetools import LRUCache

K = TypeVar("K")
V = TypeVar("V")


class ByteLru(Generic[K, V]):
    """Least recently used entries leave when the limits are exceeded. Not thread-safe: its owner locks.

    Args:
        max_bytes: limit of the sizes that `put` is told; an entry above it is not kept.
        max_count: limit of the number of entries; None: bytes alone decide.
    """

    def __init__(self, max_bytes: int, max_count: int | None = None) -> None:
        self.max_bytes, self._max_count = max_bytes, max_count
        self._items: LRUCache[K, tuple[int, V]] = LRUCache(max_bytes, getsizeof=itemgetter(0))

    def __len__(self) -> int:
        return len(self._items)

    @property
    def bytes(self) -> int:
        """Sum of the sizes of what is kept."""
        return int(self._items.currsize)

    def get(self, key: K) -> V | None:
        """The value, marked as just used, or None."""
        item = self._items.get(key)
        return None if item is None else item[1]

    def items(self) -> list[tuple[K, V]]:
        """All entries."""
        return [(key, value) for key, (_, value) in self._items.items()]

    def put(self, key: K, value: V, size: int) -> None:
        """Keep a value of ``size`` bytes in place of an older one of the same key."""
        if size > self.max_bytes:
            self._items.pop(key, None)
            return
        self._items[key] = size, value
        while self._max_count is not None and len(self._items) > self._max_count:
            self._items.popitem()

    def clear(self) -> None:
        """Keep nothing."""
        self._items.clear()


def text_bytes(text: str) -> int:
    """Bytes that CPython needs for the characters at most."""
    return len(text) if text.isascii() else 4 * len(text)
