"""A lock that serves waiters in the order they came and lets a cancelled waiter leave at once."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tokenprune.errors import TokenPruneError


class EngineBusyError(TokenPruneError):
    """A thread waits for what only it is likely to go on with."""


@dataclass(eq=False, slots=True)
class _Ticket:
    thread: threading.Thread  # that waits, or had the lock last
    idle_since: float | None = None  # nothing runs under the lock


class FairLock:
    """First come, first served; not reentrant. What holds it may go on in another thread."""

    # How often a waiter looks at its cancel event, which cannot wake it.
    _LOOK_EVERY_S = 0.02
    # After that a worker waits in vain for what itself ran last: no other thread of its pool goes on with it.
    _PATIENCE_S = 30.0

    def __init__(self) -> None:
        """Start free."""
        self._changed = threading.Condition()
        self._line: deque[_Ticket] = deque()

    @contextmanager
    def hold(self, cancel: threading.Event) -> Iterator[bool]:
        """Wait for the turn; yields False without the lock when ``cancel`` was set before it came.

        Raises:
            EngineBusyError: This thread was the last that ran under the lock, which is still held, so its
                turn would never come. Who runs under it now, and the main thread, are told at once; any other
                thread may be one of a pool, where another worker goes on: it is told when none has done so
                for half a minute.
        """
        ticket = _Ticket(threading.current_thread())
        with self._changed:
            self._line.append(ticket)
        try:
            with self._changed:
                while self._line[0] is not ticket and not cancel.is_set():
                    if self._waits_for_itself(ticket):
                        raise EngineBusyError(
                            "this thread has begun a generation that is not finished: finish or close its "
                            "iterator first, or generate in another thread"
                        )
                    self._changed.wait(self._LOOK_EVERY_S)
            yield not cancel.is_set()
        finally:
            with self._changed:
                self._line.remove(ticket)
                self._changed.notify_all()

    @contextmanager
    def idle(self) -> Iterator[None]:
        """For who holds the lock: nothing runs in the block, and what follows may be in another thread."""
        ticket = self._line[0]
        with self._changed:
            ticket.thread, ticket.idle_since = threading.current_thread(), time.monotonic()
        try:
            yield
        finally:
            with self._changed:
                ticket.thread, ticket.idle_since = threading.current_thread(), None

    def _waits_for_itself(self, ticket: _Ticket) -> bool:
        holder = self._line[0]
        if holder.thread is not ticket.thread:
            return False
        if holder.idle_since is None or ticket.thread is threading.main_thread():
            return True  # what runs under the lock asks for it
        return time.monotonic() - holder.idle_since > self._PATIENCE_S
