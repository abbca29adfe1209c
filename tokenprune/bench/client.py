"""A streaming client for chat completions that measures as vLLM's benchmark client does."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import aiohttp
from multidict import CIMultiDictProxy

from tokenprune.bench.rows import Row
from tokenprune.errors import MeasureError
from tokenprune.sse import EventDecoder, has_token

_CHECK_S = 10.0  # for the questions that are asked before and between measurements
_SHOWN = 300  # characters of a server's message that an error keeps
_TOO_LONG = re.compile(
    r"context.{0,3}(?:length|window|size)|context holds|too many tokens|prompt is too long", re.I
)
_STEP = re.compile(r"\btp-(\w+);dur=(\d+(?:\.\d+)?)")


@dataclass(frozen=True)
class Server:
    """An OpenAI-compatible server.

    Attributes:
        root: its URL up to and with ``/v1``.
        headers: sent with every request.
    """

    root: str
    headers: Mapping[str, str]

    @classmethod
    def at(cls, url: str, api_key: str | None = None) -> Server:
        """Make a server of a URL with or without ``/v1``.

        Raises:
            MeasureError: it is no http or https URL.
        """
        parts = urlsplit(url.strip())
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise MeasureError(f"{url!r} is not a URL of a server: give one like http://localhost:8000")
        path = parts.path.rstrip("/")
        path = path if path.endswith("/v1") else f"{path}/v1"
        headers = {"content-type": "application/json"}
        if api_key:
            headers["authorization"] = f"Bearer {api_key}"
        return cls(urlunsplit((parts.scheme, parts.netloc, path, "", "")), headers)

    @property
    def shown(self) -> str:
        """The URL without a user name or password in it."""
        parts = urlsplit(self.root)
        return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def open_session() -> aiohttp.ClientSession:
    """Return a session without a limit of connections: what waits must wait in the server, not here."""
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), trust_env=False)


async def models_of(session: aiohttp.ClientSession, server: Server) -> list[str]:
    """Return the names under ``/v1/models``.

    Raises:
        MeasureError: the server cannot be reached, or gives no such list.
    """
    url = f"{server.shown}/models"
    try:
        status, body = await get_json(session, server, "/models")
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        why = str(error) or type(error).__name__
        if isinstance(error, aiohttp.ClientConnectorError):  # whose own text speaks of ssl even over http
            number = error.os_error.errno or 0  # below 0: of a name that cannot be resolved
            why = os.strerror(number) if number > 0 else error.os_error.strerror or why
        raise MeasureError(
            f"cannot reach {url}: {why}; is the server running, and is the URL right?"
        ) from error
    if status in (401, 403):
        raise MeasureError(f"{url} wants an API key ({status}): give --api-key or set OPENAI_API_KEY")
    try:
        names = [str(model["id"]) for model in body["data"]]
    except (KeyError, TypeError):
        names = []
    if status != 200 or not names:
        raise MeasureError(
            f"{url} lists no models (HTTP {status}): give the URL of an OpenAI-compatible server, "
            "with or without /v1"
        )
    return names


async def get_json(session: aiohttp.ClientSession, server: Server, path: str) -> tuple[int, Any]:
    """GET below the server's root; status and body, None where the body is no JSON."""
    timeout = aiohttp.ClientTimeout(total=_CHECK_S)
    async with session.get(server.root + path, headers=server.headers, timeout=timeout) as response:
        text = await response.text(errors="replace")
    try:
        return response.status, json.loads(text)
    except ValueError:
        return response.status, None


async def measure(
    session: aiohttp.ClientSession, server: Server, body: bytes, row: Row, timeout_s: float
) -> None:
    """Send one streaming chat request and write what is seen into the row; errors are written, not raised.

    Args:
        session: from `open_session`.
        server: where to.
        body: the request as JSON, made beforehand: making it is not what is measured.
        row: filled in.
        timeout_s: for the whole request.
    """
    timeout = aiohttp.ClientTimeout(total=timeout_s)
    begin = time.perf_counter()
    try:
        async with session.post(
            f"{server.root}/chat/completions", data=body, headers=server.headers, timeout=timeout
        ) as response:
            row.status = response.status
            _read_headers(response.headers, row)
            if response.status != 200:
                _refused(row, await response.text(errors="replace"))
                return
            await _read_stream(response, row, begin)
    except TimeoutError:
        row.fail("timeout", f"no end after {timeout_s:g} s")
    except aiohttp.ClientPayloadError as error:
        row.fail("cut", f"the connection broke during the answer: {error}"[:_SHOWN])
    except (aiohttp.ClientError, OSError) as error:
        row.fail("connection", f"{type(error).__name__}: {error}"[:_SHOWN])


async def _read_stream(response: aiohttp.ClientResponse, row: Row, begin: float) -> None:
    stream = _Stream(row, begin)
    decoder = EventDecoder()
    async for chunk in response.content.iter_any():
        now = time.perf_counter()
        for data in decoder.feed(chunk):
            stream.take(data, now)
    last = decoder.finish()
    if last is not None:
        stream.take(last, time.perf_counter())
    stream.close(response.content_type)


class _Stream:
    """Reads the chunks of one answer into a row."""

    def __init__(self, row: Row, begin: float) -> None:
        self._row, self._begin = row, begin
        self._last: float | None = None
        self._parts: list[str] = []
        self._done = self._seen = False

    def take(self, data: str, now: float) -> None:
        """Read the data of one event that came at ``now``, in seconds."""
        row = self._row
        if data.strip() == "[DONE]":
            self._done = True
            return
        try:
            chunk = json.loads(data)
        except ValueError:
            chunk = None
        if not isinstance(chunk, dict):
            self._error("stream", f"a chunk is no JSON object: {data}")
            return
        self._seen = True
        if error := chunk.get("error"):
            message = error.get("message") if isinstance(error, dict) else error
            self._error("stream", f"error in the stream: {message}")
            return
        if isinstance(usage := chunk.get("usage"), dict):
            details = usage.get("prompt_tokens_details")
            row.tokens_in, row.tokens_out = usage.get("prompt_tokens"), usage.get("completion_tokens")
            row.cached_tokens = details.get("cached_tokens") if isinstance(details, dict) else None
        if choices := chunk.get("choices"):
            self._choice(choices[0], now)

    def _choice(self, choice: dict[str, Any], now: float) -> None:
        row, delta = self._row, choice.get("delta") or {}
        row.finish_reason = choice.get("finish_reason") or row.finish_reason
        self._parts.append(delta.get("content") or "")
        if self._last is None:
            if not has_token(choice):
                return
            row.ttft_ms = 1e3 * (now - self._begin)
        else:
            row.itl_ms.append(1e3 * (now - self._last))
        self._last = now

    def _error(self, kind: str, message: str) -> None:
        if self._row.error is None:
            self._row.fail(kind, message[:_SHOWN])

    def close(self, content_type: str) -> None:
        """The connection ended: was that the end of the answer?"""
        row = self._row
        row.text = "".join(self._parts)
        if row.error is not None:
            return
        if not self._seen:
            self._error("stream", f"the answer is no event stream but {content_type}")
        elif self._last is None:
            self._error("stream", "the answer has no token")
        elif not self._done and row.finish_reason is None:
            self._error("cut", "the stream ended without finish_reason and without [DONE]")
        else:
            row.e2el_ms = 1e3 * (self._last - self._begin)
            if row.ttft_ms is not None and row.tokens_out is not None and row.tokens_out > 1:
                row.tpot_ms = (row.e2el_ms - row.ttft_ms) / (row.tokens_out - 1)


def _read_headers(headers: CIMultiDictProxy[str], row: Row) -> None:
    row.decision = headers.get("x-tokenprune-decision")
    row.receipt = headers.get("x-tokenprune-receipt")
    row.prune_ms = _number(headers.get("x-tokenprune-ms"))
    row.steps_ms = {
        name: float(ms) for name, ms in _STEP.findall(", ".join(headers.getall("server-timing", [])))
    }
    before, after = (_number(headers.get(f"x-tokenprune-tokens-{when}")) for when in ("before", "after"))
    row.tokens_before = None if before is None else int(before)
    row.tokens_after = None if after is None else int(after)


def _number(value: str | None) -> float | None:
    try:
        return None if value is None else float(value)
    except ValueError:
        return None


def _refused(row: Row, text: str) -> None:
    message = text
    try:
        error = json.loads(text)["error"]
        message = error if isinstance(error, str) else str(error["message"])
    except (ValueError, KeyError, TypeError):
        pass
    kind = "too-long" if row.status in (400, 413) and _TOO_LONG.search(message) else "http"
    row.fail(kind, f"HTTP {row.status}: {' '.join(message.split())}"[:_SHOWN])
