"""Watching an answer go by: when its first token came, and what the upstream counted."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tokenprune.sse import EventDecoder, has_token
from tokenprune_server.cost_model import Answer, Usage
from tokenprune_server.protocols.base import Body
from tokenprune_server.types import Headers, Message, Send

_TAIL = 4096  # bytes at the end of an answer in which its usage stands
_HEAD = 64 * 1024  # bytes in which the first token must show; after them anything counts
# Quotes inside a JSON string are escaped: text of the answer cannot look like this.
_USAGE = re.compile(rb'"usage"\s*:\s*(?=\{)')


def holds_token(chunk: bytes) -> bool:
    """Whether a piece of a stream holds a token, of the events that are whole in it."""
    events = (_json(data) for data in EventDecoder().feed(chunk) if data.strip() != "[DONE]")
    return any(_speaks(event) for event in events)


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

    Of a stream it takes the time of the first token and, if the client asked for usage, the last bytes; of an
    answer in one piece the time of its end and the last bytes. Events are parsed until the first token is
    seen, and none after it.

    Args:
        expected: what is predicted; None: only the beginning matters.
        body: the request.
        others: requests in flight beside it.
        on_start: called when the upstream answers and has read the prompt: with the first token of a stream
            (its status may come long before, and say nothing), with the status of an answer in one piece. Not
            called for errors, be it a status or the first event of a stream.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        expected: Expected | None,
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
        self._read = expected is not None and (asked or not self._stream)
        self._began = clock()
        self._seconds: float | None = None
        self._events: EventDecoder | None = EventDecoder()
        self._seen = 0  # bytes
        self._tail = b""
        self._done = False
        self._ok = self.started = False

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
            if not self._stream:
                self._start()
            if any(name.lower() == b"content-encoding" for name, _ in headers):
                self._read, self._events = False, None
            return
        chunk: bytes = message.get("body", b"")
        if self._stream and self._seconds is None and chunk and self._has_token(chunk):
            self._seconds, self._events = self._clock() - self._began, None
            self._start()
        if self._read and chunk:
            self._tail = (self._tail + chunk)[-_TAIL:] if len(chunk) < _TAIL else chunk[-_TAIL:]
        if not message.get("more_body", False):
            self._done = True
            if not self._stream:
                self._seconds = self._clock() - self._began
            self._start()

    def _start(self) -> None:
        if self._ok and not self.started:
            self.started = True
            self._on_start()

    def _has_token(self, chunk: bytes) -> bool:
        """Whether a part of a stream brings the first token; what cannot be read may be one."""
        self._seen += len(chunk)
        if self._events is None or self._seen > _HEAD:
            return True
        for data in self._events.feed(chunk):
            event = _json(data)
            if isinstance(event, dict) and event.get("error"):
                self._ok = False
            if not self._ok:
                return False
            if data.strip() != "[DONE]" and _speaks(event):
                return True
        return False

    def result(self) -> Answer | None:
        """What was seen, or None when it says nothing: an error, or an answer that broke off."""
        expected = self.expected
        if expected is None or not self._ok or self._seconds is None or (self._read and not self._done):
            return None
        return Answer(
            expected.model,
            expected.prompt_tokens,
            expected.cached_tokens,
            self._seconds,
            find_usage(self._tail) if self._read else None,
            not self._stream,
            self._others,
        )


def _json(text: str) -> Any:
    """The value, or None where there is none to be had."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _speaks(event: Any) -> bool:
    choices = event.get("choices") if isinstance(event, dict) else None
    if not isinstance(choices, list):
        return True  # no chunk that we know
    return any(not isinstance(choice, dict) or has_token(choice) for choice in choices)


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
