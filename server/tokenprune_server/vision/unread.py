"""Rows in bodies that are not read: those must not pass unchecked, since some of them end vLLM for all."""

import re

from tokenprune_server.errors import RequestError, send_error
from tokenprune_server.types import Message, Receive, Send

# A JSON string that is this word; in a text, its quotation marks would have a backslash before them. Each
# letter may be written by its number.
_ROWS = re.compile(b'"%s"' % b"".join(rb"(?:%c|\\u00(?i:%02x))" % (c, c) for c in b"image_embeds"))
_LONGEST = 2 + 6 * len("image_embeds")


def holds_rows(data: bytes) -> bool:
    """Whether JSON, or a piece of it, has ``image_embeds`` as a key or a value."""
    return _ROWS.search(data) is not None


def check_unread(body: bytes) -> None:
    """Raise RequestError for a body with rows that is no JSON we can write again."""
    if holds_rows(body):
        raise RequestError(
            "the request holds image_embeds, which cannot be checked here: send JSON without duplicate keys "
            "and without numbers that are out of range",
            param="messages",
        )


class Unread:
    """A request that is too large to be read and streams through: it is broken off where rows stand in it.

    The app behind sees its client leave before the body was complete.

    Args:
        receive: gives the request.
        send: takes the answer.
        max_bytes: of bodies that are read.
    """

    def __init__(self, receive: Receive, send: Send, max_bytes: int) -> None:
        self._receive, self._send, self._max_bytes = receive, send, max_bytes
        self._end = b""
        self._found = self._answered = False

    async def receive(self) -> Message:
        """The next message for the app."""
        if self._found:
            return {"type": "http.disconnect"}
        message = await self._receive()
        if message["type"] == "http.request":
            piece = self._end + message.get("body", b"")
            if holds_rows(piece):
                self._found = True
                return {"type": "http.disconnect"}
            self._end = piece[-_LONGEST:]
        return message

    async def send(self, message: Message) -> None:
        """Pass on what the app answers, except to a request that was broken off."""
        if self._answered or not self._found:
            self._answered = True
            await self._send(message)

    async def finish(self) -> None:
        """Answer a request that was broken off, unless the app had begun to."""
        if self._found and not self._answered:
            message = (
                "the request holds image_embeds, which cannot be checked where its body has more than "
                f"{self._max_bytes} bytes (setting server.max_body_bytes): send fewer, or pictures instead"
            )
            await send_error(self._send, 413, message, param="messages")
