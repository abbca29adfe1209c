"""A mapping bounded in bytes (and, if asked, in entries) that forgets what was used least recently."""

from collections import OrderedDict
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class ByteLru(Generic[K, V]):
    """Least recently used entries leave when the limits are exceeded. Not thread-safe: its owner locks.

    Args:
        max_bytes: limit of the sizes that `put` is told; an entry above it is not kept.
        max_count: limit of the number of entries; None: bytes alone decide.
    """

    def __init__(self, max_bytes: int, max_count: int | None = None) -> None:
        self._max_bytes, self._max_count = max_bytes, max_count
        self._items: OrderedDict[K, tuple[V, int]] = OrderedDict()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._items)

    def get(self, key: K) -> V | None:
        """The value, marked as just used, or None."""
        item = self._items.get(key)
        if item is None:
            return None
        self._items.move_to_end(key)
        return item[0]

    def items(self) -> list[tuple[K, V]]:
        """All entries, the least recently used first."""
        return [(key, value) for key, (value, _) in self._items.items()]

    def put(self, key: K, value: V, size: int) -> None:
        """Keep a value of ``size`` bytes in place of an older one of the same key."""
        old = self._items.pop(key, None)
        if old is not None:
            self.bytes -= old[1]
        if size > self._max_bytes:
            return
        self._items[key] = (value, size)
        self.bytes += size
        while self.bytes > self._max_bytes or (
            self._max_count is not None and len(self._items) > self._max_count
        ):
            _, (_, size) = self._items.popitem(last=False)
            self.bytes -= size


def text_bytes(text: str) -> int:
    """Bytes that CPython needs for the characters at most."""
    return len(text) if text.isascii() else 4 * len(text)
