"""A lock that serves waiters in the order they came and lets a cancelled waiter leave at once."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager


class FairLock:
    """First come, first served; not reentrant."""

    # How often a waiter looks at its cancel event, which cannot wake it.
    _LOOK_EVERY_S = 0.02

    def __init__(self) -> None:
        """Start free."""
        self._changed = threading.Condition()
        self._line: deque[object] = deque()

    @contextmanager
    def hold(self, cancel: threading.Event) -> Iterator[bool]:
        """Wait for the turn; yields False without the lock when ``cancel`` was set before it came."""
        ticket = object()
        with self._changed:
            self._line.append(ticket)
        try:
            with self._changed:
                while self._line[0] is not ticket and not cancel.is_set():
                    self._changed.wait(self._LOOK_EVERY_S)
            yield not cancel.is_set()
        finally:
            with self._changed:
                self._line.remove(ticket)
                self._changed.notify_all()
