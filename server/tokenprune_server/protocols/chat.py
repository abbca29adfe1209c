"""``/v1/chat/completions``: messages with string or multipart content, and tool messages."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tokenprune_server.protocols.base import (
    Body,
    Context,
    Job,
    Located,
    Path,
    Protocol,
    Rules,
    Span,
    context_block,
    limit_of,
    no_place,
    replaced,
)
from tokenprune_server.protocols.texts import Reading, as_query, is_json, json_spans, read_text

_DOCUMENT_ROLES = ("user", "tool", "function")
_TEXT_PARTS = ("text", "input_text")


class ChatProtocol(Protocol):
    """OpenAI chat completions.

    Documents are long texts in user and tool messages. System, developer and assistant messages, tool
    calls, ids, JSON (but for long string values in tool output) and the last user question are frame.
    """

    routes = ("/v1/chat/completions",)

    def locate(self, body: Body, rules: Rules) -> Located:
        """One job for the conversation; the last user message gives the question."""
        messages = _messages(body)
        last_user = _last_user_index(messages)
        last = _LastUser()
        spans: list[Span] = []
        short = 0
        for index, message in enumerate(messages):
            if message.get("role") not in _DOCUMENT_ROLES:
                continue
            texts = _texts(message, ("messages", index))
            if index == last_user:
                last = _read_last_user(texts, rules)
                spans += last.spans
                short += last.short
                continue
            for text, path in texts:
                if is_json(text):
                    if message["role"] != "user":
                        spans += json_spans(text, path, rules)
                    continue
                reading = read_text(text, path, rules)
                spans += reading.spans
                short += reading.short
        if rules.query is not None:
            return Located((Job(rules.query.strip() or None, tuple(spans)),), short)
        if not spans and last.own_words:
            return Located((Job(None, last.own_words),), short)
        return Located((Job(last.query, tuple(spans)),), short)

    def prompt_texts(self, body: Body) -> list[str]:
        """All message texts, tool calls and tool descriptions."""
        out: list[str] = []
        for index, message in enumerate(_messages(body)):
            out += [text for text, _ in _texts(message, ("messages", index))]
            if message.get("tool_calls"):
                out.append(str(message["tool_calls"]))
        if body.get("tools"):
            out.append(str(body["tools"]))
        return out

    def output_tokens(self, body: Body, default: int) -> int:
        """``max_completion_tokens``, else the older ``max_tokens``, else the default."""
        return limit_of(body, ("max_completion_tokens", "max_tokens"), default)

    def insert_contexts(self, body: Body, contexts: Sequence[Context]) -> Body:
        """The context block becomes the beginning of the last user message (its first part if multipart)."""
        messages = _messages(body)
        last_user = _last_user_index(messages)
        if last_user < 0:
            raise no_place("a user message to put them before")
        block = context_block(contexts)
        if not block:
            return body
        content = messages[last_user].get("content")
        if isinstance(content, list):
            content = [{"type": "text", "text": block}, *content]
        else:
            content = block + (content if isinstance(content, str) else "")
        new: Body = replaced(body, ("messages", last_user, "content"), content)
        return new


def _messages(body: Body) -> list[dict[str, Any]]:
    """The messages, with what is not an object replaced by an empty one so that indices stay."""
    messages = body.get("messages")
    if not isinstance(messages, list):
        return []
    return [m if isinstance(m, dict) else {} for m in messages]


def _texts(message: dict[str, Any], path: Path) -> list[tuple[str, Path]]:
    content = message.get("content")
    if isinstance(content, str):
        return [(content, (*path, "content"))]
    if not isinstance(content, list):
        return []
    return [
        (part["text"], (*path, "content", index, "text"))
        for index, part in enumerate(content)
        if isinstance(part, dict) and part.get("type") in _TEXT_PARTS and isinstance(part.get("text"), str)
    ]


def _last_user_index(messages: list[dict[str, Any]]) -> int:
    return max((i for i, m in enumerate(messages) if m.get("role") == "user"), default=-1)


@dataclass(frozen=True, slots=True)
class _LastUser:
    """The last user message: documents in it, the question, and a long text that may be either."""

    spans: tuple[Span, ...] = ()
    query: str | None = None
    short: int = 0
    own_words: tuple[Span, ...] = ()


def _read_last_user(texts: list[tuple[str, Path]], rules: Rules) -> _LastUser:
    """Documents and question of the last user message.

    A template names its question. Otherwise the last short part is the question and long parts are
    documents. A single long text without a question in it is what the user says: it is protected, unless
    the request names a query, which makes it a document.
    """
    readings = [
        (text, Reading(short=True) if is_json(text) else read_text(text, path, rules)) for text, path in texts
    ]
    spans = tuple(span for _, reading in readings for span in reading.spans)
    short = sum(reading.short for _, reading in readings)
    for _, reading in reversed(readings):
        if reading.question is not None:
            return _LastUser(spans, as_query(reading.question), short)
    for text, reading in reversed(readings):
        if reading.short and text.strip() and not is_json(text):
            return _LastUser(spans, as_query(text), short - 1)
    if len(readings) == 1 and rules.query is None:
        return _LastUser((), as_query(readings[0][0]), short, spans)
    return _LastUser(spans, None, short)
