"""Reading a request body and handing it on: whole, replaced, or as it came."""

import asyncio
import zlib
from collections import deque

from tokenprune_server.types import Headers, Message, Receive

_GZIP = 31  # zlib's name for "gzip header and trailer"


class ClientGone(Exception):
    """The client disconnected before its request was complete."""


class Replay:
    """A ``receive`` that first gives the messages it was handed, then what ``receive`` gives.

    A call of ``receive`` that was begun elsewhere (to watch for a disconnect) is awaited, never cancelled:
    a server or an outer middleware may lose a message when it is.
    """

    def __init__(
        self, messages: list[Message], receive: Receive, pending: "asyncio.Task[Message] | None" = None
    ) -> None:
        self._messages = deque(messages)
        self._receive = receive
        self._pending = pending

    async def __call__(self) -> Message:
        """The next message."""
        if self._messages:
            return self._messages.popleft()
        if self._pending is not None:
            pending, self._pending = self._pending, None
            return await pending
        return await self._receive()

    def close(self) -> None:
        """Stop a pending call that nobody asked for."""
        if self._pending is not None:
            self._pending.cancel()


async def read_body(receive: Receive, max_bytes: int) -> tuple[bytes, list[Message]]:
    """The whole body and no messages, or b"" and the messages read so far when it is above ``max_bytes``.

    Raises:
        ClientGone: the client left.
    """
    message = await receive()
    messages: list[Message] = []
    size = 0
    while True:
        if message["type"] == "http.disconnect":
            raise ClientGone
        messages.append(message)
        size += len(message.get("body", b""))
        if size > max_bytes:
            return b"", messages
        if not message.get("more_body", False):
            break
        message = await receive()
    body = messages[0].get("body", b"")
    return (body if len(messages) == 1 else b"".join(m.get("body", b"") for m in messages)), []


def body_message(body: bytes) -> Message:
    """A complete body as one message."""
    return {"type": "http.request", "body": body, "more_body": False}


def decoded(body: bytes, encoding: bytes, max_bytes: int) -> bytes | None:
    """The body without its content-encoding, or None when we cannot read it or it grows too large."""
    if encoding in (b"", b"identity"):
        return body
    if encoding not in (b"gzip", b"x-gzip"):
        return None
    inflater = zlib.decompressobj(_GZIP)
    try:
        plain = inflater.decompress(body, max_bytes)
    except zlib.error:
        return None
    return plain if inflater.eof and not inflater.unused_data else None


def header(headers: Headers, wanted: bytes) -> bytes:
    """The first value of a header, lower-case, or b""."""
    for name, value in headers:
        if name == wanted:
            return value.strip().lower()
    return b""


def rewritten_headers(headers: Headers, length: int) -> Headers:
    """Request headers for a body that we wrote."""
    dropped = (b"content-length", b"content-encoding", b"transfer-encoding")
    kept = [(name, value) for name, value in headers if name not in dropped]
    return [*kept, (b"content-length", str(length).encode())]
