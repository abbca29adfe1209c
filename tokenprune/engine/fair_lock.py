"""A lock that serves waiters in the order they came and lets a cancelled waiter leave at once."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tokenprune.errors import TokenPruneError


class EngineBusyError(TokenPruneError):
    """A thread waits for what it holds itself."""


@dataclass(eq=False, slots=True)
class _Ticket:
    thread: int


class FairLock:
    """First come, first served; not reentrant."""

    # How often a waiter looks at its cancel event, which cannot wake it.
    _LOOK_EVERY_S = 0.02

    def __init__(self) -> None:
        """Start free."""
        self._changed = threading.Condition()
        self._line: deque[_Ticket] = deque()

    @contextmanager
    def hold(self, cancel: threading.Event) -> Iterator[bool]:
        """Wait for the turn; yields False without the lock when ``cancel`` was set before it came.

        Raises:
            EngineBusyError: This thread has the lock, so its turn would never come.
        """
        ticket = _Ticket(threading.get_ident())
        with self._changed:
            if any(other.thread == ticket.thread for other in self._line):
                raise EngineBusyError(
                    "this thread has begun a generation that is not finished: finish or close its iterator "
                    "first, or generate in another thread"
                )
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
