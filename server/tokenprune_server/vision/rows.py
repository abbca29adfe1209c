"""Keeps pictures with different numbers of rows apart on their way to the upstream."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager


class RowGate:
    """Lets requests pass together whose pictures have the same number of rows, and others one by one.

    vLLM 0.32 reads the pictures of all requests of a step together, and its engine ends (for all requests)
    where they have different numbers of rows: twelve requests at once with 20 to 31 rows ended it, twelve
    with the same number did not. A request that vLLM has put aside for want of memory reads its pictures
    again, so each passes until its answer has ended. Order is kept: nobody waits for ever.

    Args:
        open_: let everything pass: the upstream can take it.
    """

    def __init__(self, *, open_: bool) -> None:
        self._open = open_
        self._turn = asyncio.Lock()
        self._empty = asyncio.Event()
        self._inside, self._rows = 0, 0

    def takes(self, counts: Sequence[int]) -> bool:
        """Whether pictures with these numbers of rows may be in one request."""
        return self._open or len(set(counts)) <= 1

    @asynccontextmanager
    async def passing(self, rows: int | None) -> AsyncIterator[None]:
        """Context around a request to the upstream; None: it has no rows."""
        if self._open or rows is None:
            yield
            return
        async with self._turn:
            while self._inside and self._rows != rows:
                self._empty.clear()
                await self._empty.wait()
            self._inside += 1
            self._rows = rows
        try:
            yield
        finally:
            self._inside -= 1
            if not self._inside:
                self._empty.set()
