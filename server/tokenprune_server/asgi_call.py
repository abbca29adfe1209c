"""Requests made straight to an ASGI app: questions of our own to the upstream."""

import asyncio

from tokenprune_server.types import ASGIApp, Headers, Message, Scope


async def asgi_call(
    app: ASGIApp, method: str, path: str, headers: Headers, timeout_s: float, body: bytes = b""
) -> tuple[int, bytes]:
    """Status and body of a request made straight to an ASGI app.

    Raises:
        TimeoutError: no complete answer in time.
    """
    if body:
        headers = [
            *headers,
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
        ]
    scope: Scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
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
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
        else:
            parts.append(message.get("body", b""))

    async with asyncio.timeout(timeout_s):
        await app(scope, receive, send)
    return status, b"".join(parts)
