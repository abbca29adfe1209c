"""Batches side by side on the cores of a CPU, each computed by one thread alone.

Threads that share every operation of a small network wait for each other at each of them. Where something
else computes on the same cores, such as the model server, they wait most of the time, all for the latest.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from threading import Barrier
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def side_by_side(run: Callable[[T], R], batches: Sequence[T]) -> Iterator[R]:
    """Yield what ``run`` makes of each batch, in their order.

    As many run at once as torch has threads; a single batch has all of them. Modes of torch such as
    ``inference_mode`` are a thread's own, so ``run`` sets them itself.
    """
    import torch

    threads = torch.get_num_threads()
    if threads == 1 or len(batches) < 2:
        yield from map(run, batches)
        return
    yield from _lone_threads(threads).map(run, batches)


@lru_cache(maxsize=1)
def _lone_threads(count: int) -> ThreadPoolExecutor:
    """Return threads in which torch computes alone; kept, as each new one costs OpenMP a team."""
    import torch

    started = Barrier(count + 1)

    def alone() -> None:
        torch.set_num_threads(1)
        torch.get_num_threads()  # a thread takes the number for its own when it first asks
        started.wait()

    pool = ThreadPoolExecutor(count, thread_name_prefix="torch-alone", initializer=alone)
    for _ in range(count):
        pool.submit(int)
    started.wait()
    # It is also what later threads begin with.
    torch.set_num_threads(count)
    return pool


if hasattr(os, "register_at_fork"):  # threads do not live on in a child
    os.register_at_fork(after_in_child=_lone_threads.cache_clear)
