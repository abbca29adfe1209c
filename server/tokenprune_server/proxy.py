"""``UpstreamApp``: a plain, fast, cancel-safe pass-through to an OpenAI-compatible server."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable

import aiohttp
from yarl import URL

from tokenprune.errors import ConfigError
from tokenprune_server.errors import error_body, send_error
from tokenprune_server.paths import raw_path
from tokenprune_server.types import Headers, Receive, Scope, Send

log = logging.getLogger("tokenprune.proxy")

# RFC 9110 section 7.6.1, and what older proxies add to it.
HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
# Host belongs to the connection; the server in front of us has already answered Expect.
_NOT_FORWARDED = HOP_BY_HOP | {b"host", b"expect"}
_AUTO_HEADERS = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")
_MAX_HEADER_BYTES = 64 * 1024


def _ignore_error(kind: str) -> None:
    """Nobody counts."""


class _Exchange:
    """One request on its way: who works on it, and whether the client is still there."""

    __slots__ = ("finished", "gone", "task", "watcher")

    def __init__(self, task: "asyncio.Task[object]") -> None:
        self.task = task
        self.gone = False
        self.finished = False
        self.watcher: asyncio.Task[None] | None = None

    def abandon(self) -> None:
        """The client has left: stop the work, which closes the upstream connection."""
        if not self.finished and not self.gone:
            self.gone = True
            self.task.cancel()

    def watch(self, receive: Receive) -> None:
        self.watcher = asyncio.create_task(self._watch(receive))

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            continue
        self.abandon()


class UpstreamApp:
    """ASGI app that forwards every HTTP request to ``url`` and streams the answer back.

    Method, raw path, query, end-to-end headers (duplicates too) and body are kept byte for byte; the
    answer is neither decompressed nor buffered. When the client goes away, before or after the first
    byte, streaming or not, the upstream connection is closed so that the server stops working.

    Args:
        url: base URL of the server, e.g. ``http://host:8000``, with or without a trailing ``/v1`` and
            with an optional path prefix, to which the path of each request is appended.
        connect_timeout_s: seconds to wait for a connection.
        read_timeout_s: seconds of silence from the server that count as a failure; None waits for ever.
        keepalive_s: seconds an idle connection is kept. It is below the 5 s after which uvicorn (and so
            vLLM) closes, else a request now and then meets a connection that is just being closed.
        on_error: called with ``connect``, ``timeout`` or ``broken`` for each failure of the upstream.
    """

    def __init__(
        self,
        url: str,
        *,
        connect_timeout_s: float = 10.0,
        read_timeout_s: float | None = None,
        keepalive_s: float = 4.0,
        on_error: Callable[[str], None] = _ignore_error,
    ) -> None:
        self.base = _base_url(url)
        self._timeout = aiohttp.ClientTimeout(
            total=None, connect=None, sock_connect=connect_timeout_s, sock_read=read_timeout_s
        )
        self._keepalive_s = keepalive_s
        self._on_error = on_error
        self._session: aiohttp.ClientSession | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope."""
        if scope["type"] == "http":
            await self._forward(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": "websockets are not proxied"})

    async def aclose(self) -> None:
        """Close the connections to the upstream."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _open_session(self) -> aiohttp.ClientSession:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=self._keepalive_s, ttl_dns_cache=60),
            # A shared jar would hand one client's cookies to the next.
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            timeout=self._timeout,
            skip_auto_headers=_AUTO_HEADERS,
            max_line_size=_MAX_HEADER_BYTES,
            max_field_size=_MAX_HEADER_BYTES,
        )
        return self._session

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                if self._session is None:
                    self._open_session()
                await send({"type": "lifespan.startup.complete"})
            else:
                await self.aclose()
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def _forward(self, scope: Scope, receive: Receive, send: Send) -> None:
        task = asyncio.current_task()
        assert task is not None
        exchange = _Exchange(task)
        try:
            await self._exchange(exchange, scope, receive, send)
        except asyncio.CancelledError:
            if not exchange.gone:
                raise
            task.uncancel()
        finally:
            exchange.finished = True
            if exchange.watcher is not None:
                exchange.watcher.cancel()

    async def _exchange(self, exchange: _Exchange, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            headers = _request_headers(scope["headers"])
        except UnicodeDecodeError:
            await send_error(send, 400, "a request header holds bytes that are not UTF-8")
            return
        url = self._url(scope)
        if url is None:  # "OPTIONS *"
            await send_error(send, 400, f"the request target {scope['path']!r} is not a path")
            return
        first = await receive()
        if first["type"] == "http.disconnect":
            return
        data: bytes | AsyncIterator[bytes] | None = first.get("body", b"") or None
        if first.get("more_body", False):
            data = _upload(exchange, first.get("body", b""), receive)
        else:
            exchange.watch(receive)
        try:
            response = await (self._session or self._open_session()).request(
                scope["method"],
                url,
                headers=headers,
                data=data,
                allow_redirects=False,
            )
        except (TimeoutError, aiohttp.ServerTimeoutError) as error:
            self._on_error("timeout")
            log.warning("upstream %s timed out: %s", self.base, error or type(error).__name__)
            await send_error(send, 504, f"the upstream server did not answer in time: {_reason(error)}")
            return
        except (aiohttp.ClientError, OSError) as error:
            self._on_error("connect")
            log.warning("upstream %s failed: %s", self.base, error or type(error).__name__)
            await send_error(send, 502, f"the upstream server cannot be reached: {_reason(error)}")
            return
        try:
            await self._stream(exchange, response, send)
        finally:
            # After a complete body this does nothing: the connection went back to the pool at its end.
            response.close()

    async def _stream(self, exchange: _Exchange, response: aiohttp.ClientResponse, send: Send) -> None:
        headers = _response_headers(response.raw_headers)
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
        content = response.content
        chunk = b""
        try:
            while not content.at_eof():
                chunk = await content.readany()
                if content.at_eof():
                    break
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
                chunk = b""
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            self._on_error("broken")
            log.warning("upstream %s broke off an answer: %s", self.base, _reason(error))
            await self._end_broken(exchange, response, send, _reason(error))
            return
        exchange.finished = True
        await send({"type": "http.response.body", "body": chunk, "more_body": False})

    async def _end_broken(
        self, exchange: _Exchange, response: aiohttp.ClientResponse, send: Send, reason: str
    ) -> None:
        if not response.headers.get("content-type", "").lower().startswith("text/event-stream"):
            # Returning with the body open makes the server cut the connection, so the client sees a broken
            # body and not a short but valid one.
            return
        exchange.finished = True
        error = error_body(f"the upstream server broke off the stream: {reason}", 502)
        # The blank line first ends an event that was cut in the middle.
        event = b"\n\ndata: " + error + b"\n\ndata: [DONE]\n\n"
        await send({"type": "http.response.body", "body": event, "more_body": False})

    def _url(self, scope: Scope) -> URL | None:
        """Where a request goes; None unless that is a path of the upstream."""
        path = raw_path(scope)
        # Without the slash it would be read as more of the upstream's host.
        if not path.startswith(b"/"):
            return None
        target = self.base + path.decode("latin-1")
        if scope["query_string"]:
            target = f"{target}?{scope['query_string'].decode('latin-1')}"
        return URL(target, encoded=True)


async def _upload(exchange: _Exchange, first: bytes, receive: Receive) -> AsyncIterator[bytes]:
    """The request body part by part; the client leaving in the middle ends the whole exchange."""
    yield first
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            exchange.abandon()
            await asyncio.Event().wait()
        if message.get("body"):
            yield message["body"]
        if not message.get("more_body", False):
            break
    exchange.watch(receive)


def _base_url(url: str) -> str:
    """The URL without a trailing slash and without ``/v1``, which every request path brings itself."""
    parsed = URL(url)
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ConfigError(f"upstream {url!r} is not an http:// or https:// URL")
    if parsed.query_string or parsed.fragment:
        raise ConfigError(f"upstream {url!r} must not have a query or a fragment")
    return str(parsed).rstrip("/").removesuffix("/v1").rstrip("/")


def _named_by_connection(headers: Headers) -> set[bytes]:
    named: set[bytes] = set()
    for name, value in headers:
        if name.lower() == b"connection":
            named.update(part.strip().lower() for part in value.split(b","))
    return named


def _request_headers(headers: Headers) -> list[tuple[str, str]]:
    """End-to-end request headers in order; raises UnicodeDecodeError on bytes aiohttp cannot carry."""
    named = _named_by_connection(headers)
    return [
        (name.decode("ascii"), value.decode())
        for name, value in headers
        if name not in _NOT_FORWARDED and name not in named
    ]


def _response_headers(raw: tuple[tuple[bytes, bytes], ...]) -> Headers:
    named = _named_by_connection(list(raw))
    return [
        (lower, value)
        for name, value in raw
        if (lower := name.lower()) not in HOP_BY_HOP and lower not in named
    ]


def _reason(error: BaseException) -> str:
    return str(error) or type(error).__name__
