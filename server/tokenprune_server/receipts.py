"""What was dropped from recent requests, and the originals: bounded in count and in bytes."""

import secrets
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tokenprune.receipt import PruneResult
from tokenprune_server.lru import ByteLru, text_bytes

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
        earlier: ids of the receipts of earlier turns that the request sent again as they were pruned then.
        timing: seconds that are known only later: ``upstream``, from handing the request on to the first
            token of its answer.
    """

    id: str
    query: str
    results: tuple[PruneResult, ...]
    size: int
    earlier: tuple[str, ...] = ()
    timing: dict[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form, as served under ``/v1/receipts/{id}``; each document carries its original."""
        results = []
        for result in self.results:
            entry = result.to_dict()
            entry["originals"] = {name: document.text for name, document in result.originals.items()}
            results.append(entry)
        about = {"query": self.query, "earlier": list(self.earlier), "timing": dict(self.timing)}
        return {"id": self.id, **about, "results": results}


class ReceiptStore:
    """Thread-safe LRU of receipts; the oldest leave when the count or the bytes exceed the limits."""

    def __init__(self, max_count: int, max_bytes: int) -> None:
        self._lock = threading.Lock()
        self._items: ByteLru[str, StoredReceipt] = ByteLru(max_bytes, max_count)

    def __len__(self) -> int:
        return len(self._items)

    @property
    def bytes(self) -> int:
        """Estimated bytes held."""
        return self._items.bytes

    def put(self, query: str, results: Sequence[PruneResult], earlier: Sequence[str] = ()) -> str:
        """Keep a receipt and return its new id; one larger than the whole store is not kept."""
        size = _BYTES_PER_RECEIPT + text_bytes(query) + sum(map(text_bytes, earlier))
        for result in results:
            size += sum(text_bytes(document.text) for document in result.originals.values())
            size += sum(text_bytes(document.text) for document in result.documents)
            size += sum(_BYTES_PER_UNIT * len(receipt.units) for receipt in result.receipts)
        name = f"rcpt_{secrets.token_urlsafe(12)}"
        receipt = StoredReceipt(name, query, tuple(results), size, tuple(earlier))
        with self._lock:
            self._items.put(receipt.id, receipt, size)
        return receipt.id

    def get(self, receipt_id: str) -> StoredReceipt | None:
        """The receipt, marked as recently used, or None when unknown or already displaced."""
        with self._lock:
            return self._items.get(receipt_id)
