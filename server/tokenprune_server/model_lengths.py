"""What the upstream says of its models: their context length, learned from ``/v1/models``."""

import asyncio
import json
import logging
import time
from typing import Any

from tokenprune_server.types import ASGIApp, Headers, Message, Scope

log = logging.getLogger("tokenprune.server")

_ASK_TIMEOUT_S = 5.0
_RETRY_S = 10.0  # a failed question is not asked again before


async def asgi_get(app: ASGIApp, path: str, headers: Headers, timeout_s: float) -> tuple[int, bytes]:
    """Status and body of a GET made straight to an ASGI app.

    Raises:
        TimeoutError: no complete answer in time.
    """
    scope: Scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": headers,
        "client": ("127.0.0.1", 0),
        "server": ("127.0.0.1", 0),
        "state": {},
    }
    asked = False
    status = 0
    parts: list[bytes] = []

    async def receive() -> Message:
        nonlocal asked
        if asked:
            await asyncio.Event().wait()
        asked = True
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
        else:
            parts.append(message.get("body", b""))

    async with asyncio.timeout(timeout_s):
        await app(scope, receive, send)
    return status, b"".join(parts)


class ModelLengths:
    """Context length by model name, asked once and then cached; concurrent requests ask together."""

    def __init__(self, app: ASGIApp, fixed: int | None, ttl_s: float) -> None:
        self._app, self._fixed, self._ttl_s = app, fixed, ttl_s
        self._known: dict[str, int] = {}
        self._until = 0.0
        self._lock = asyncio.Lock()

    async def get(self, model: Any, authorization: Headers) -> int | None:
        """Tokens that fit the model, or None when the upstream does not say."""
        if self._fixed is not None:
            return self._fixed
        if time.monotonic() >= self._until:
            async with self._lock:
                if time.monotonic() >= self._until:
                    await self._ask(authorization)
        if isinstance(model, str) and model in self._known:
            return self._known[model]
        # A server with one model often answers to any name, or to none.
        return next(iter(self._known.values())) if len(self._known) == 1 else None

    async def _ask(self, authorization: Headers) -> None:
        self._until = time.monotonic() + _RETRY_S
        try:
            status, body = await asgi_get(self._app, "/v1/models", authorization, _ASK_TIMEOUT_S)
            models = json.loads(body)["data"] if status == 200 else []
            lengths = {m["id"]: m["max_model_len"] for m in models if isinstance(m.get("max_model_len"), int)}
        except (TimeoutError, ValueError, LookupError, TypeError, AttributeError) as error:
            log.warning("the upstream's /v1/models cannot be read: %r", error)
            return
        if status == 200:
            self._known = lengths
            self._until = time.monotonic() + self._ttl_s
