"""Work that nobody waits for any more: it ends at the next place where it looks.

A thread cannot be stopped from outside. Whoever starts long work says with `when` what will tell that it is
given up; the work looks between its parts (`look`), which costs nothing where nobody said so.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_told: ContextVar[threading.Event | None] = ContextVar("given_up", default=None)


class GivenUpError(BaseException):
    """Nobody waits any more. No `Exception`: what handles the faults of work must not take it for one."""


@contextmanager
def when(told: threading.Event) -> Iterator[None]:
    """Let the work of this thread within the block end once ``told`` is set."""
    before = _told.set(told)
    try:
        yield
    finally:
        _told.reset(before)


def look() -> None:
    """Go on, or raise GivenUpError if the work of this thread is given up."""
    told = _told.get()
    if told is not None and told.is_set():
        raise GivenUpError
