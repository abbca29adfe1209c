"""A bounded pool of threads for pruning: never more waiting than agreed, never longer than the deadline."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from tokenprune.given_up import when

T = TypeVar("T")


class PrunePool:
    """Threads with a bounded queue."""

    def __init__(self, workers: int, queue: int) -> None:
        self._executor = ThreadPoolExecutor(workers, thread_name_prefix="tokenprune")
        self.max_waiting = workers + queue
        self._given: set[threading.Event] = set()  # of the calls that wait or run: tells them to end
        self._lock = threading.Lock()

    @property
    def waiting(self) -> int:
        """Calls that run or wait to run; one that outlived its deadline still counts."""
        return len(self._given)

    def submit(self, work: Callable[[], T]) -> "asyncio.Future[T]":
        """Start or queue a call.

        Cancelling the future takes it out of the queue; one that runs ends where it looks next.
        """
        told = threading.Event()

        def run() -> T:
            with when(told):
                return work()

        with self._lock:
            self._given.add(told)

        def finished(_: "Future[T] | None" = None) -> None:
            with self._lock:
                self._given.discard(told)

        try:
            future = self._executor.submit(run)
        except BaseException:
            finished()
            raise
        future.add_done_callback(finished)
        wrapped = asyncio.wrap_future(future)
        # A call abandoned at its deadline may still fail later, with nobody there to ask why.
        wrapped.add_done_callback(_consume)
        wrapped.add_done_callback(lambda waited: told.set() if waited.cancelled() else None)
        return wrapped

    def shutdown(self) -> None:
        """Take no more calls, forget those that wait, and let those that run end where they look next."""
        with self._lock:
            given = list(self._given)
        for told in given:
            told.set()
        self._executor.shutdown(wait=False, cancel_futures=True)


def _consume(future: "asyncio.Future[T]") -> None:
    if not future.cancelled():
        future.exception()
