"""The engine seen from an event loop: requests queue in order, and leave at once when their client does."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from tokenprune.engine.engine import CancelledError, Engine, Step
from tokenprune.engine.sampling import SamplingParams


class EngineRunner:
    """Runs one engine in a thread of its own; ``running`` and ``waiting`` can be read at any time."""

    def __init__(self, engine: Engine) -> None:
        """Serve ``engine``."""
        self.engine = engine
        self.running = 0
        self.waiting = 0
        self.closed = False
        self._lock = threading.Lock()
        self._jobs: set[_Job] = set()
        # One worker: its queue is the line of waiting requests.
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tokenprune-engine")

    async def generate(
        self, prompt_ids: Sequence[int], params: SamplingParams, cancel: threading.Event
    ) -> AsyncIterator[Step]:
        """Yield the steps of one generation.

        It ends early, without an error, when ``cancel`` is set or the runner is closed.
        Leaving the iterator, by ``aclose`` or by cancellation of the task, frees the engine too.

        Raises:
            ContextLengthError: See :meth:`Engine.generate`.
            SamplingError: See :meth:`Engine.generate`.
        """
        steps = self.engine.generate(prompt_ids, params, cancel)
        job = _Job(asyncio.get_running_loop(), cancel)
        with self._lock:
            if self.closed:
                return
            self.waiting += 1
            self._jobs.add(job)
            job.future = self._executor.submit(self._work, job, steps)
        try:
            while (item := await job.steps.get()) is not None:
                if isinstance(item, Exception):
                    raise item
                yield item
                if item.finish_reason is not None:
                    return
        except (GeneratorExit, asyncio.CancelledError):
            self._cancel(job)
            raise

    def _cancel(self, job: _Job) -> None:
        """Take a job out of the line, or tell the engine to stop at the next step or layer."""
        job.cancel.set()
        with self._lock:
            # A future that was cancelled before says so again: the line must be counted down once.
            left = job in self._jobs and job.future is not None and job.future.cancel()
            if left:
                self.waiting -= 1
                self._jobs.discard(job)
        if left:
            job.put(None)

    def cancel(self, cancel: threading.Event) -> None:
        """Set the event of a request and stop what was started with it, queued or running."""
        cancel.set()
        for job in self._open_jobs():
            if job.cancel is cancel:
                self._cancel(job)

    def close(self) -> None:
        """Cancel all jobs and let the thread end."""
        with self._lock:
            self.closed = True
        for job in self._open_jobs():
            self._cancel(job)
        self._executor.shutdown(wait=False)

    def _open_jobs(self) -> list[_Job]:
        with self._lock:
            return list(self._jobs)

    def _work(self, job: _Job, steps: Iterator[Step]) -> None:
        with self._lock:
            self.waiting -= 1
            self.running += 1
        try:
            for step in steps:
                if not job.put(step):
                    job.cancel.set()
            job.put(None)
        except CancelledError:
            job.put(None)
        except Exception as error:  # every failure of the engine must reach the request that caused it
            job.put(error)
        finally:
            with self._lock:
                self.running -= 1
                self._jobs.discard(job)


class _Job:
    """One generation on its way from the engine's thread to an event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, cancel: threading.Event) -> None:
        self.cancel = cancel
        self.steps: asyncio.Queue[Step | Exception | None] = asyncio.Queue()
        self.future: Future[None] | None = None
        self._loop = loop

    def put(self, item: Step | Exception | None) -> bool:
        """Hand over an item; False when the loop is gone."""
        try:
            self._loop.call_soon_threadsafe(self.steps.put_nowait, item)
        except RuntimeError:
            return False
        return True
