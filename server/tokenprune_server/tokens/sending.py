"""A request on its way as token ids, and as text where the upstream refuses them."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from tokenprune_server.body import rewritten_headers
from tokenprune_server.tokens.answer import ChatShape
from tokenprune_server.types import ASGIApp, Headers, Message, Receive, Scope, Send

log = logging.getLogger("tokenprune.server")

IDS, REFUSED = "ids", "text:refused"
_CHAT, _COMPLETIONS = "chat/completions", "completions"


@dataclass
class Sending:
    """An ASGI app: the upstream for one request whose tokens were chosen.

    Attributes:
        app: the upstream.
        ids: body for ``/v1/completions``.
        settled: told how the request goes, once the upstream has begun to answer.
    """

    app: ASGIApp
    ids: bytes
    settled: Callable[[str], None] = field(default=lambda how: None)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the ids; if they are refused, what ``receive`` gives."""
        first = await receive()
        if first["type"] != "http.request":
            return
        rest = _Rest(receive)
        try:
            shape = ChatShape(self._announcing(IDS, send), chat=_CHAT in scope["path"])
            await self.app(_to_completions(scope, len(self.ids)), rest.after(_body(self.ids)), shape)
            if shape.refused is not None:
                log.warning("the upstream refuses token ids (%d): text goes", shape.refused)
                await self.app(scope, rest.after(first), self._announcing(REFUSED, send))
        finally:
            rest.close()

    def _announcing(self, how: str, send: Send) -> Send:
        async def announcing(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.settled(how)
            await send(message)

        return announcing


class _Rest:
    """What comes after a body (the client leaving), for one call of the upstream after another.

    The call of ``receive`` that waits for it is shared: an upstream gives up waiting when it has answered.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._waiting: asyncio.Task[Message] | None = None

    def after(self, body: Message) -> Receive:
        """A ``receive`` that gives a body, then the rest."""
        given = False

        async def receive() -> Message:
            nonlocal given
            if not given:
                given = True
                return body
            if self._waiting is None:
                self._waiting = asyncio.ensure_future(self._receive())
            return await asyncio.shield(self._waiting)

        return receive

    def close(self) -> None:
        """Stop waiting."""
        if self._waiting is not None:
            self._waiting.cancel()


def _body(content: bytes) -> Message:
    return {"type": "http.request", "body": content, "more_body": False}


def _to_completions(scope: Scope, length: int) -> Scope:
    # An answer that is compressed could not be read here.
    headers: Headers = [(name, value) for name, value in scope["headers"] if name != b"accept-encoding"]
    headers.append((b"accept-encoding", b"identity"))
    path: str = scope["path"].replace(_CHAT, _COMPLETIONS)
    raw: bytes = scope.get("raw_path") or b""
    return {
        **scope,
        "path": path,
        "raw_path": raw.replace(_CHAT.encode(), _COMPLETIONS.encode()),
        "headers": rewritten_headers(headers, length),
    }
