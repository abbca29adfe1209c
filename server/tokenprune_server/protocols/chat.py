"""``/v1/chat/completions``: messages with string or multipart content, and tool messages."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
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
    Turn,
    context_block,
    estimate_tokens,
    limit_of,
    long_enough,
    no_place,
    replaced,
)
from tokenprune_server.protocols.shapes import is_frame
from tokenprune_server.protocols.templates import asks
from tokenprune_server.protocols.texts import Reading, is_data, json_spans, query_of, read_text, without_code

_DOCUMENT_ROLES = ("user", "tool", "function")
_MAX_ROLE = 20  # characters of a role that is worth remembering how it is written
_MAX_TASK = 450  # characters of a paragraph that may say what to do with a text
_TEXT_PARTS = ("text", "input_text")
_BEFORE_MESSAGES = ("tools", "functions", "documents", "chat_template", "chat_template_kwargs")


class ChatProtocol(Protocol):
    """OpenAI chat completions.

    Documents are long texts in user and tool messages. System, developer and assistant messages, tool
    calls, ids, JSON (but for long string values in tool output) and the last user question are frame.
    """

    routes = ("/v1/chat/completions",)

    def locate(self, body: Body, rules: Rules) -> Located:
        """One job for the conversation; the last user message gives the question."""
        messages = _messages(body)
        last_user = _last_index(messages, "user")
        answered = -1 if rules.earlier else _last_index(messages[: max(last_user, 0)], "assistant")
        last = _LastUser()
        spans: list[Span] = []
        short = few_shot = 0
        for index, message in enumerate(messages):
            role = message.get("role")
            if role not in _DOCUMENT_ROLES:
                continue
            texts = _texts(message, ("messages", index))
            if index == last_user:
                last = _read_last_user(texts, rules)
                spans += last.spans
                short, few_shot = short + last.short, few_shot + last.few_shot
                continue
            for text, path in texts:
                if is_data(text):
                    if role != "user":
                        spans += json_spans(text, path, rules)
                    continue
                reading = read_text(text, path, rules, examples=role == "user")
                few_shot += reading.few_shot
                if role == "user" and index > answered:
                    # Given for the question that follows, as the parts of one message are.
                    spans += _unless_said(text, reading)
                    short += reading.short
                elif role == "user":
                    # What the user said earlier (a name, a rule for all answers) is no document.
                    spans += [
                        s for s in reading.spans if reading.marked and (not reading.whole or s.kind == "html")
                    ]
                    short += reading.short
                else:
                    spans += reading.spans
                    short += reading.short
        query, whole_text = query_of(last.question, rules)
        spans = [*without_code(spans, query)]
        if not spans and last.own_words and rules.query is None:
            return Located((Job(None, last.own_words, whole_text),), short, few_shot)
        if not long_enough(spans, rules):
            short, spans = short + len(spans), []
        return Located((Job(query, tuple(spans), whole_text),), short, few_shot)

    def prompt_texts(self, body: Body) -> list[list[str]]:
        """One prompt: all message texts, tool calls and tool descriptions."""
        out: list[str] = []
        for index, message in enumerate(_messages(body)):
            out += [text for text, _ in _texts(message, ("messages", index))]
            if message.get("tool_calls"):
                out.append(str(message["tool_calls"]))
        if body.get("tools"):
            out.append(str(body["tools"]))
        return [out]

    def prompts(self, body: Body) -> list[tuple[Turn, ...]]:
        """One prompt: what templates put before the messages, then the messages."""
        before = {name: body[name] for name in _BEFORE_MESSAGES if body.get(name)}
        turns = [Turn((), "system", (((), json.dumps(before)),))] if before else []
        for index, message in enumerate(_messages(body)):
            path = ("messages", index)
            content = message.get("content")
            rest = {key: value for key, value in message.items() if key not in ("content", "cache_control")}
            plain = len(rest) == 1 and isinstance(role := rest.get("role"), str) and len(role) < _MAX_ROLE
            pieces: list[tuple[Path, str]] = [((), _only_role(role) if plain else json.dumps(rest))]
            texts = {where: text for text, where in _texts(message, path)}
            marked = "cache_control" in message
            if isinstance(content, list):
                for number, part in enumerate(content):
                    where = (*path, "content", number, "text")
                    pieces.append((where, texts[where]) if where in texts else ((), json.dumps(part)))
                    marked = marked or (isinstance(part, dict) and "cache_control" in part)
            elif texts:
                pieces += texts.items()
            elif content is not None:
                pieces.append(((), json.dumps(content)))
            turns.append(Turn(path, str(message.get("role", "")), tuple(pieces), marked))
        return [tuple(turns)]

    def output_tokens(self, body: Body, default: int) -> int:
        """``max_completion_tokens``, else the older ``max_tokens``, else the default."""
        return limit_of(body, ("max_completion_tokens", "max_tokens"), default)

    def insert_contexts(self, body: Body, contexts: Sequence[Context]) -> Body:
        """The context block becomes the beginning of the last user message (its first part if multipart)."""
        messages = _messages(body)
        last_user = _last_index(messages, "user")
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


@lru_cache(maxsize=64)
def _only_role(role: str) -> str:
    return json.dumps({"role": role})


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


def _last_index(messages: list[dict[str, Any]], role: str) -> int:
    return max((i for i, m in enumerate(messages) if m.get("role") == role), default=-1)


def _unless_said(text: str, reading: Reading) -> list[Span]:
    """The documents of a text that stands beside the question; none when it tells the model something."""
    said = reading.whole and is_frame(text)
    return [span for span in reading.spans if not said or span.kind == "html"]


@dataclass(frozen=True, slots=True)
class _LastUser:
    """The last user message: documents in it, the question, and a long text that may be either."""

    spans: tuple[Span, ...] = ()
    question: str | None = None
    short: int = 0
    few_shot: int = 0
    own_words: tuple[Span, ...] = ()


def _read_last_user(texts: list[tuple[str, Path]], rules: Rules) -> _LastUser:
    """Documents and question of the last user message.

    A template names its question. Of several parts, the last or first one that asks is the question, else a
    short last one; parts that tell the model something stay as well, and the others are documents. A single
    long text without a template is what the user says: it is protected unless it is a page of HTML.
    """
    readings = [(text, Reading() if is_data(text) else read_text(text, path, rules)) for text, path in texts]
    asking = _asking_part(readings, rules)
    question = None
    if asking is not None:
        text, reading = readings[asking]
        question = reading.question if reading.question is not None else text
    protected = asking if asking is not None else max(len(readings) - 1, 0)
    spans: list[Span] = []
    own_words: list[Span] = []
    for index, (text, reading) in enumerate(readings):
        said = reading.whole and (index == protected or (len(readings) > 1 and is_frame(text)))
        for span in reading.spans:
            (own_words if said and span.kind != "html" else spans).append(span)
    short = sum(reading.short for index, (_, reading) in enumerate(readings) if index != asking)
    few_shot = sum(reading.few_shot for _, reading in readings)
    if len(readings) != 1 or spans or estimate_tokens(readings[0][0]) < rules.min_tokens:
        own_words = []
    elif own_words:
        question = _edges(readings[0][0]) or readings[0][0]
    return _LastUser(tuple(spans), question, short, few_shot, tuple(own_words))


def _asking_part(readings: list[tuple[str, Reading]], rules: Rules) -> int | None:
    """Index of the part that holds the question, or None."""
    said = [index for index, (text, _) in enumerate(readings) if text.strip() and not is_data(text)]
    if not said:
        return None
    if len(said) > 1:
        for index in (said[-1], said[0]):
            text, reading = readings[index]
            if reading.question is None and (reading.short or (asks(text) and _below(text, rules))):
                return index
    for index in reversed(said):
        if readings[index][1].question is not None:
            return index
    last_text, last = readings[said[-1]]
    if len(said) == 1 and not last.whole:
        return said[-1]
    return said[-1] if last.short or (last.whole and _below(last_text, rules)) else None


def _below(text: str, rules: Rules) -> bool:
    return estimate_tokens(text) < rules.min_tokens


def _edges(text: str) -> str:
    """The first and the last paragraph, where a task would stand, if they are short."""
    text = text.strip()
    first, last = text.partition("\n\n")[0], text.rpartition("\n\n")[2]
    edges = dict.fromkeys((first, last))  # a text of one paragraph is both
    return "\n".join(paragraph for paragraph in edges if len(paragraph) <= _MAX_TASK)
