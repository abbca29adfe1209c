"""Watching an answer go by: when its first token came, and what the upstream counted."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tokenprune_server.cost_model import Answer, Usage
from tokenprune_server.protocols.base import Body
from tokenprune_server.types import Headers, Message, Send

_TAIL = 4096  # bytes at the end of an answer in which its usage stands
# Quotes inside a JSON string are escaped: text of the answer cannot look like this.
_USAGE = re.compile(rb'"usage"\s*:\s*(?=\{)')


@dataclass(frozen=True, slots=True)
class Expected:
    """What the answer to a request is compared with; tokens are our own count.

    Attributes:
        model: the name the request gives.
        prompt_tokens: of the prompt as it is sent.
        cached_tokens: of those, predicted to be in the upstream's cache.
        gain_s: seconds that pruning was predicted to gain; None when nothing was pruned.
        unpruned_s: predicted seconds to the first token without pruning.
        prune_s: seconds that pruning took.
    """

    model: str
    prompt_tokens: float
    cached_tokens: float
    gain_s: float | None = None
    unpruned_s: float = 0.0
    prune_s: float = 0.0


class AnswerWatch:
    """Looks at the messages of one answer without holding or changing any.

    Of a stream it takes the time of the first event and, if the client asked for usage, the last bytes; of an
    answer in one piece the time of its end and the last bytes.

    Args:
        expected: what is predicted.
        body: the request.
        others: requests in flight beside it.
        on_start: called when the upstream begins to answer without an error.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        expected: Expected,
        body: Body,
        others: int,
        on_start: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        self.expected = expected
        self._others, self._on_start, self._clock = others, on_start, clock
        self._stream = body.get("stream") is True
        options = body.get("stream_options")
        asked = isinstance(options, dict) and options.get("include_usage") is True
        self._read = asked or not self._stream
        self._began = clock()
        self._seconds: float | None = None
        self._tail = b""
        self._done = False
        self._ok = False

    def passing(self, send: Send) -> Send:
        """A ``send`` that looks at each message after it has gone on."""

        async def seen(message: Message) -> None:
            await send(message)
            self.see(message)

        return seen

    def see(self, message: Message) -> None:
        """Look at a message that went to the client."""
        if message["type"] == "http.response.start":
            headers: Headers = list(message.get("headers", ()))
            self._ok = message["status"] == 200
            if self._ok:
                self._on_start()
            if any(name.lower() == b"content-encoding" for name, _ in headers):
                self._read = False
            return
        chunk: bytes = message.get("body", b"")
        # Servers may send comments to keep the connection open before the first token is there.
        if self._stream and self._seconds is None and chunk and not chunk.startswith(b":"):
            self._seconds = self._clock() - self._began
        if self._read and chunk:
            self._tail = (self._tail + chunk)[-_TAIL:] if len(chunk) < _TAIL else chunk[-_TAIL:]
        if not message.get("more_body", False):
            self._done = True
            if not self._stream:
                self._seconds = self._clock() - self._began

    def result(self) -> Answer | None:
        """What was seen, or None when it says nothing: an error, or an answer that broke off."""
        if not self._ok or self._seconds is None or (self._read and not self._done):
            return None
        expected = self.expected
        return Answer(
            expected.model,
            expected.prompt_tokens,
            expected.cached_tokens,
            self._seconds,
            find_usage(self._tail) if self._read else None,
            not self._stream,
            self._others,
        )


def find_usage(tail: bytes) -> Usage | None:
    """The last ``usage`` object in the end of an answer, of JSON or of server-sent events."""
    found = None
    for match in _USAGE.finditer(tail):
        found = match
    if found is None:
        return None
    try:
        usage, _ = json.JSONDecoder().raw_decode(tail[found.end() :].decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None
    prompt, output = _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))
    details = usage.get("prompt_tokens_details")
    cached = _count(details.get("cached_tokens")) if isinstance(details, dict) else None
    if prompt is None or (cached or 0) > prompt:
        return None
    return Usage(prompt, cached, output or 0)


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
