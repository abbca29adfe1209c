"""What a labeler has read already: the same passages come back with every follow-up of a question."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from hashlib import blake2b
from weakref import WeakKeyDictionary

from tokenprune.lru import ByteLru
from tokenprune.models.labeler.labeler import Labeler
from tokenprune.models.labeler.types import Labels, Passage

# About 20 bytes a token: some 1.5 million tokens, or 10,000 passages of 150.
DEFAULT_CACHE_BYTES = 32 * 2**20
_OVERHEAD = 600  # bytes of the objects around the arrays of an entry


class LabelCache:
    """Labels by passage and question, the least recently used go first; safe to use from threads.

    Labels do not depend on what else is read in the same call, but for rounding: in bfloat16 a passage that
    was read in other company may differ in the third digit.
    """

    def __init__(self, max_bytes: int) -> None:
        """Hold at most about ``max_bytes``; 0 holds nothing."""
        self.max_bytes = max_bytes
        self.hits = self.misses = 0
        self._entries: ByteLru[bytes, Labels] = ByteLru(max_bytes)
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def size(self) -> int:
        """Bytes that are held."""
        return self._entries.bytes

    def label(self, labeler: Labeler, query: str, passages: Sequence[Passage]) -> list[Labels]:
        """Label passages, reading those that are not known; one that occurs twice is read once."""
        if self.max_bytes <= 0:
            return labeler.label(query, passages)
        keys = [_key(query, passage) for passage in passages]
        found: dict[bytes, Labels] = {}
        new: dict[bytes, Passage] = {}
        with self._lock:
            for key, passage in zip(keys, passages, strict=True):
                known = self._entries.get(key)
                if known is None:
                    new.setdefault(key, passage)
                else:
                    found[key] = known
            self.hits += len(keys) - len(new)
            self.misses += len(new)
        if new:
            read = labeler.label(query, list(new.values()))
            found |= zip(new, read, strict=True)
            with self._lock:
                for key, labels in zip(new, read, strict=True):
                    self._put(key, labels)
        return [found[key] for key in keys]

    def clear(self) -> None:
        """Hold nothing."""
        with self._lock:
            self._entries.clear()

    def _put(self, key: bytes, labels: Labels) -> None:
        for column in (labels.keep, labels.start, labels.end):
            column.flags.writeable = False  # it is handed out again
        self._entries.put(key, labels, _bytes(labels))


def _bytes(labels: Labels) -> int:
    return labels.keep.nbytes + labels.start.nbytes + labels.end.nbytes + _OVERHEAD


def _key(query: str, passage: Passage) -> bytes:
    digest = blake2b(digest_size=16)
    for part in (query, passage.title or "", passage.text, ",".join(map(str, passage.breaks))):
        content = part.encode("utf-8", "surrogatepass")
        digest.update(len(content).to_bytes(8, "big") + content)
    return digest.digest()


_shared: WeakKeyDictionary[Labeler, dict[int, LabelCache]] = WeakKeyDictionary()
_shared_lock = threading.Lock()


def cache_of(labeler: Labeler, max_bytes: int = DEFAULT_CACHE_BYTES) -> LabelCache:
    """Return the cache that all users of a loaded labeler share, one for each size."""
    with _shared_lock:
        sizes = _shared.setdefault(labeler, {})
        if max_bytes not in sizes:
            sizes[max_bytes] = LabelCache(max_bytes)
        return sizes[max_bytes]


def forget_all() -> None:
    """Let all labelers remember nothing of before: for whoever measures how long reading takes."""
    with _shared_lock:
        caches = [cache for sizes in _shared.values() for cache in sizes.values()]
    for cache in caches:
        cache.clear()
