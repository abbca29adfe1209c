"""Waiting for work in a thread while the client is there."""

import asyncio
import time
from typing import Any

from tokenprune_server.body import ClientGone
from tokenprune_server.types import Message


async def done_in_time(
    work: "asyncio.Future[Any]", watching: "asyncio.Task[Message]", timeout_s: float
) -> bool:
    """Whether the work is done before the time is over.

    Args:
        work: what is waited for; it is left as it is.
        watching: a call of ``receive`` that was begun, by which the client's leaving shows.
        timeout_s: seconds.

    Raises:
        ClientGone: the client left.
    """
    deadline = time.monotonic() + timeout_s
    waiting_for: set[asyncio.Future[Any]] = {work} if watching.done() else {work, watching}
    if watching.done() and _is_gone(watching):
        raise ClientGone
    while not work.done():
        left = max(0.0, deadline - time.monotonic())
        done, waiting_for = await asyncio.wait(waiting_for, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        if watching in done and _is_gone(watching):
            raise ClientGone
        if not done:
            break
    return work.done()


def _is_gone(watching: "asyncio.Task[Message]") -> bool:
    """Whether the next message says that the client left, or cannot be had."""
    if watching.cancelled() or watching.exception() is not None:
        return True
    return bool(watching.result()["type"] == "http.disconnect")
