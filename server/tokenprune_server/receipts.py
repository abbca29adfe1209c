"""What was dropped from recent requests, and the originals: bounded in count and in bytes."""

import secrets
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tokenprune.lru import ByteLru, text_bytes
from tokenprune.receipt import PruneResult

_BYTES_PER_UNIT = 64  # five 8-byte columns and two references
_BYTES_PER_PICTURE = 700
_BYTES_PER_RECEIPT = 2000  # the objects around them, generously


@dataclass(frozen=True, slots=True)
class PictureReceipt:
    """What was kept of a picture.

    Attributes:
        place: where it stood in the request, e.g. ``messages.0.content.1``.
        sha256: of its file; the picture itself is not kept.
        method: by which its tokens were chosen.
        keep: the budget; None: as the method found right.
        views: rows and columns of its patches; of each view, where a model sees it in several.
        tokens_before: tokens unpruned.
        kept: the patches that went on, numbered row by row from the top left, view by view.
        ends: ends of lines that went on besides.
        merged: how many of these hold other patches as well.
        note: what else is to be known; "" for most.
    """

    place: str
    sha256: str
    method: str
    keep: int | float | None
    views: tuple[tuple[int, int], ...]
    tokens_before: int
    kept: tuple[int, ...]
    ends: int
    merged: int
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        own = {name: getattr(self, name) for name in self.__slots__}
        views = [list(view) for view in self.views]
        after = len(self.kept) + self.ends
        # "grid" is that of the whole picture, the first view.
        return own | {"grid": views[0], "views": views, "kept": list(self.kept), "tokens_after": after}


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
            token of its answer, or to the answer when it is not streamed.
        pictures: that were pruned.
    """

    id: str
    query: str
    results: tuple[PruneResult, ...]
    size: int
    earlier: tuple[str, ...] = ()
    timing: dict[str, float] = field(default_factory=dict)
    pictures: tuple[PictureReceipt, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form, as served under ``/v1/receipts/{id}``; each document carries its original."""
        results = []
        for result in self.results:
            entry = result.to_dict()
            entry["originals"] = {name: document.text for name, document in result.originals.items()}
            results.append(entry)
        about = {"query": self.query, "earlier": list(self.earlier), "timing": dict(self.timing)}
        pictures = [picture.to_dict() for picture in self.pictures]
        return {"id": self.id, **about, "results": results, "pictures": pictures}


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

    def put(
        self,
        query: str,
        results: Sequence[PruneResult],
        earlier: Sequence[str] = (),
        pictures: Sequence[PictureReceipt] = (),
    ) -> str:
        """Keep a receipt and return its new id; one larger than the whole store is not kept."""
        size = _BYTES_PER_RECEIPT + text_bytes(query) + sum(map(text_bytes, earlier))
        size += sum(_BYTES_PER_PICTURE + 8 * len(picture.kept) for picture in pictures)
        for result in results:
            size += sum(text_bytes(document.text) for document in result.originals.values())
            size += sum(text_bytes(document.text) for document in result.documents)
            size += sum(_BYTES_PER_UNIT * len(receipt.units) for receipt in result.receipts)
        name = f"rcpt_{secrets.token_urlsafe(12)}"
        receipt = StoredReceipt(name, query, tuple(results), size, tuple(earlier), pictures=tuple(pictures))
        with self._lock:
            self._items.put(receipt.id, receipt, size)
        return receipt.id

    def add_pictures(self, receipt_id: str, pictures: Sequence[PictureReceipt]) -> None:
        """Add pictures to a receipt, if it is still there."""
        more = sum(_BYTES_PER_PICTURE + 8 * len(picture.kept) for picture in pictures)
        with self._lock:
            stored = self._items.get(receipt_id)
            if stored is not None:
                stored = replace(stored, size=stored.size + more, pictures=(*stored.pictures, *pictures))
                self._items.put(receipt_id, stored, stored.size)

    def get(self, receipt_id: str) -> StoredReceipt | None:
        """The receipt, marked as recently used, or None when unknown or already displaced."""
        with self._lock:
            return self._items.get(receipt_id)
