"""Runs a plan: blocks one after the other, lanes at the same time, the requests of a lane in order."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence

from tokenprune.bench.plan import Block, Send

Sender = Callable[[Send], Awaitable[None]]


async def run_blocks(
    blocks: Sequence[Block], concurrency: int, send: Sender, between: Callable[[], Awaitable[None]]
) -> None:
    """Run all blocks; each is answered in full before the next begins.

    Args:
        blocks: the plan; requests with an arrival time (``at_s``) come at that time, or when the one before
            them in their lane is answered if that is later.
        concurrency: lanes that run at the same time in a block without arrival times.
        send: sends one request and returns when it is answered.
        between: called after each block, while nothing is in flight.
    """
    for block in blocks:
        timed = any(one.at_s is not None for lane in block.lanes for one in lane)
        workers = len(block.lanes) if timed else min(concurrency, len(block.lanes))
        lanes = iter(block.lanes)
        begin = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(workers):
                group.create_task(_work(lanes, begin, send))
        await between()


async def _work(lanes: Iterator[tuple[Send, ...]], begin: float, send: Sender) -> None:
    for lane in lanes:
        for one in lane:
            if one.at_s is not None:
                await asyncio.sleep(max(0.0, begin + one.at_s - time.perf_counter()))
            await send(one)
