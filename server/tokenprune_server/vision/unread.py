"""Rows in bodies that are not read: those must not pass unchecked, since some of them end vLLM for all."""

import re

from tokenprune_server.errors import RequestError, send_error
from tokenprune_server.types import Message, Receive, Send

# A JSON string that is this word; in a text, its quotation marks would have a backslash before them. Each
# letter may be written by its number.
_ROWS = re.compile(b'"%s"' % b"".join(rb"(?:%c|\\u00(?i:%02x))" % (c, c) for c in b"image_embeds"))
_LONGEST = 2 + 6 * len("image_embeds")


def holds_rows(data: bytes) -> bool:
    """Whether JSON, or a piece of it, has ``image_embeds`` as a key or a value.

    Servers read JSON in UTF-16 and UTF-32 as well: its ASCII is the same bytes between zeros.
    """
    return _ROWS.search(_without_zeros(data)) is not None


def _without_zeros(data: bytes) -> bytes:
    return data.replace(b"\0", b"")


def check_unread(body: bytes) -> None:
    """Raise RequestError for a body with rows that is no JSON we can write again."""
    if holds_rows(body):
        raise RequestError(
            "the request holds image_embeds, which cannot be checked here: send UTF-8 JSON without duplicate "
            "keys and without numbers that are out of range, with an API key of this server where it has any",
            param="messages",
        )


class Unread:
    """A request that streams through without being read: it is broken off where rows stand in it.

    The app behind sees its client leave before the body was complete.

    Args:
        receive: gives the request.
        send: takes the answer.
        where: such requests are, for the error.
        status: of the error.
    """

    def __init__(self, receive: Receive, send: Send, where: str, status: int) -> None:
        self._receive, self._send, self._where, self._status = receive, send, where, status
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
            self._end = _without_zeros(piece)[-_LONGEST:]
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
                f"the request holds image_embeds, which cannot be checked {self._where}: send them "
                "otherwise, or pictures instead"
            )
            await send_error(self._send, self._status, message, param="messages")
