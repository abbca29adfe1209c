"""What was dropped from recent requests, and the originals: bounded in count and in bytes."""

import secrets
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tokenprune.receipt import PruneResult

_BYTES_PER_UNIT = 64  # five 8-byte columns and two references
_BYTES_PER_RECEIPT = 2000  # the objects around them, generously


@dataclass(frozen=True, slots=True)
class StoredReceipt:
    """One pruned request.

    Attributes:
        id: what the header ``x-tokenprune-receipt`` says; cannot be guessed.
        query: the question the documents were judged by.
        results: one per prune call: one, or one per prompt of a batch of completions.
        size: estimated bytes.
    """

    id: str
    query: str
    results: tuple[PruneResult, ...]
    size: int

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form, as served under ``/v1/receipts/{id}``; each document carries its original."""
        results = []
        for result in self.results:
            entry = result.to_dict()
            entry["originals"] = {name: document.text for name, document in result.originals.items()}
            results.append(entry)
        return {"id": self.id, "query": self.query, "results": results}


class ReceiptStore:
    """Thread-safe LRU of receipts; the oldest leave when the count or the bytes exceed the limits."""

    def __init__(self, max_count: int, max_bytes: int) -> None:
        self._max_count, self._max_bytes = max_count, max_bytes
        self._lock = threading.Lock()
        self._items: OrderedDict[str, StoredReceipt] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._items)

    @property
    def bytes(self) -> int:
        """Estimated bytes held."""
        return self._bytes

    def put(self, query: str, results: Sequence[PruneResult]) -> str:
        """Keep a receipt and return its new id; one larger than the whole store is not kept."""
        size = _BYTES_PER_RECEIPT + _size(query)
        for result in results:
            size += sum(_size(document.text) for document in result.originals.values())
            size += sum(_size(document.text) for document in result.documents)
            size += sum(_BYTES_PER_UNIT * len(receipt.units) for receipt in result.receipts)
        receipt = StoredReceipt(f"rcpt_{secrets.token_urlsafe(12)}", query, tuple(results), size)
        with self._lock:
            if size <= self._max_bytes and self._max_count > 0:
                self._items[receipt.id] = receipt
                self._bytes += size
            while self._bytes > self._max_bytes or len(self._items) > self._max_count:
                _, old = self._items.popitem(last=False)
                self._bytes -= old.size
        return receipt.id

    def get(self, receipt_id: str) -> StoredReceipt | None:
        """The receipt, marked as recently used, or None when unknown or already displaced."""
        with self._lock:
            receipt = self._items.get(receipt_id)
            if receipt is not None:
                self._items.move_to_end(receipt_id)
            return receipt


def _size(text: str) -> int:
    """Bytes that CPython needs for the characters at most."""
    return len(text) if text.isascii() else 4 * len(text)
