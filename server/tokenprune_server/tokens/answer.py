"""An answer of ``/v1/completions`` as one of ``/v1/chat/completions``, whole or in chunks, as it goes by."""

import json
from typing import Any

from tokenprune.sse import EventDecoder
from tokenprune_server.body import header
from tokenprune_server.types import Headers, Message, Send

# The upstream does not take ids like this; it says so before it has worked.
_REFUSALS = frozenset({400, 403, 404, 405, 411, 413, 415, 422, 501})
_HEADERS = (b"content-length", b"transfer-encoding")


class ChatShape:
    """Stands between the upstream and a ``send``, and turns what it answered into a chat's answer, if asked.

    Errors pass as they are, but for those by which an upstream refuses ids: nothing of them is sent, and
    ``refused`` is their status.

    Args:
        send: of the client.
        chat: it asked for a chat; else the answer passes as it is.
    """

    def __init__(self, send: Send, *, chat: bool = True) -> None:
        self._send, self._chat = send, chat
        self.refused: int | None = None
        self._start: Message | None = None  # of an answer in one piece, held until it is whole
        self._whole: list[bytes] = []
        self._events: EventDecoder | None = None
        self._spoken: set[int] = set()

    async def __call__(self, message: Message) -> None:
        """Take a message of the upstream."""
        if self.refused is not None:
            return
        if message["type"] == "http.response.start":
            await self._begin(message)
        elif self._events is not None:
            await self._pass_events(self._events, message)
        elif self._start is not None:
            await self._collect(self._start, message)
        else:
            await self._send(message)

    async def _begin(self, message: Message) -> None:
        headers: Headers = [(name.lower(), value) for name, value in message.get("headers", ())]
        status = message["status"]
        plain = not self._chat or header(headers, b"content-encoding") in (b"", b"identity")
        if status in _REFUSALS or (status == 200 and not plain):
            self.refused = status
            return
        if status != 200 or not self._chat:
            await self._send(message)
            return
        message = {**message, "headers": [item for item in headers if item[0] not in _HEADERS]}
        if header(headers, b"content-type").startswith(b"text/event-stream"):
            self._events = EventDecoder()
            await self._send(message)
        else:
            self._start = message

    async def _pass_events(self, decoder: EventDecoder, message: Message) -> None:
        data = message.get("body", b"")
        events = decoder.feed(data)
        more = message.get("more_body", False)
        if not more and (last := decoder.finish()) is not None:
            events.append(last)
        out = b"".join(b"data: " + line + b"\n\n" for event in events for line in self._chunks(event))
        if not out and data and more:
            # The upstream shows that it is alive (a comment, half an event): so do we.
            out = b": waiting\n\n"
        await self._send({"type": "http.response.body", "body": out, "more_body": more})

    def _chunks(self, event: str) -> list[bytes]:
        if event.strip() == "[DONE]":
            return [b"[DONE]"]
        chunk = _object(event)
        if chunk is None or not isinstance(chunk.get("choices"), list):
            return [event.encode()]  # an error, or nothing that we know
        chunk |= _head(chunk, "chat.completion.chunk")
        out = []
        for choice in chunk["choices"]:
            index = choice.get("index", 0)
            if index not in self._spoken:
                self._spoken.add(index)
                first = {"index": index, "delta": {"role": "assistant", "content": ""}, "logprobs": None}
                opening = {name: value for name, value in chunk.items() if name != "usage"}
                out.append(_json({**opening, "choices": [{**first, "finish_reason": None}]}))
        choices = [_delta(choice) for choice in chunk["choices"]]
        return [*out, _json({**chunk, "choices": choices})]

    async def _collect(self, start: Message, message: Message) -> None:
        self._whole.append(message.get("body", b""))
        if message.get("more_body", False):
            return
        body = b"".join(self._whole)
        answer = _object(body)
        if answer is not None and isinstance(answer.get("choices"), list):
            choices = [_choice(choice) for choice in answer["choices"]]
            body = _json({**answer, **_head(answer, "chat.completion"), "choices": choices})
        headers = [*start["headers"], (b"content-length", b"%d" % len(body))]
        await self._send({**start, "headers": headers})
        await self._send({"type": "http.response.body", "body": body, "more_body": False})


def _head(answer: dict[str, Any], kind: str) -> dict[str, Any]:
    name = str(answer.get("id", ""))
    return {"id": "chatcmpl-" + name.removeprefix("cmpl-"), "object": kind}


def _rest(choice: dict[str, Any]) -> dict[str, Any]:
    """What both kinds of choices share; of these requests nobody asks for more."""
    names = ("index", "logprobs", "finish_reason", "stop_reason")
    return {"logprobs": None, **{name: choice[name] for name in names if name in choice}}


def _delta(choice: dict[str, Any]) -> dict[str, Any]:
    return {**_rest(choice), "delta": {"content": choice.get("text") or ""}}


def _choice(choice: dict[str, Any]) -> dict[str, Any]:
    message = {"role": "assistant", "content": choice.get("text"), "refusal": None}
    return {**_rest(choice), "message": message}


def _object(text: str | bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
