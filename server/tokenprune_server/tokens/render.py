"""A chat, or a prompt string, as the model reads it: text, token ids, and where documents stand in both."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from tokenprune.arrays import BoolArray, IntArray
from tokenprune.errors import TokenPruneError
from tokenprune.segment.words import inside_words
from tokenprune_server.embedded_types import ApiError, flatten_messages, template_options
from tokenprune_server.protocols.base import Body, Protocol, Span

# Private use characters around a number: text that no template changes, and that documents do not hold.
_MARK = "\ue3a1{}\ue3a2"


def is_chat(body: Body) -> bool:
    """Whether a request is a chat; else its prompt is a string."""
    return "messages" in body


def adds_special(body: Body) -> bool:
    """Whether the upstream puts special tokens before the prompt; a chat's template writes its own."""
    return not is_chat(body) and body.get("add_special_tokens", True) is True


class UnreadableChatError(TokenPruneError):
    """A chat that cannot be rendered, or whose documents do not stand in the prompt as they are.

    ``reason`` is a short name of why.
    """

    def __init__(self, reason: str, message: str) -> None:
        """Keep the reason beside the message."""
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Place:
    """A document in a rendered prompt: characters ``[start, end)`` are the text of ``span``."""

    span: Span
    start: int
    end: int


@dataclass(frozen=True)
class Rendered:
    """A prompt.

    Tokens tile the text: each begins where the one before it ends, so that characters no token claims (a
    tokenizer may leave the space before a word out) belong to the token behind them. Tokens that share a
    character are one group: they go or stay together.

    Attributes:
        text: what the template made.
        ids: n tokens of it.
        begins: int64 [n], first character of each token's tile.
        ends: int64 [n], one past the last; ascending.
        groups: int64 [n], the number of each token's group, ascending from 0.
        places: its documents, in order, not overlapping.
    """

    text: str
    ids: list[int]
    begins: IntArray
    ends: IntArray
    groups: IntArray
    places: tuple[Place, ...]

    @classmethod
    def of(cls, text: str, ids: list[int], offsets: IntArray, places: Sequence[Place] = ()) -> Rendered:
        """Tile a text; ``offsets`` are int64 [n, 2], the characters of each token by the tokenizer.

        Tokens of one character, and those of one word or number, are a group.
        """
        ends = np.maximum.accumulate(offsets[:, 1])
        begins = np.concatenate(([0], ends))[:-1]
        new = offsets[:, 0] >= begins  # else it begins within the character that the one before ends in
        new &= ~inside_words(text, np.maximum(offsets[:, 0], begins))
        new[:1] = True
        return cls(text, ids, begins, ends, np.cumsum(new) - 1, tuple(places))

    def with_texts(self, texts: Sequence[str]) -> tuple[str, list[Place]]:
        """The text with others in the places of its documents, and where they stand in it."""
        pieces, places, at, size = list[str](), list[Place](), 0, 0
        for place, text in zip(self.places, texts, strict=True):
            before = self.text[at : place.start]
            pieces += [before, text]
            start = size + len(before)
            at, size = place.end, start + len(text)
            places.append(Place(place.span, start, size))
        return "".join([*pieces, self.text[at:]]), places

    def inside_of(self, place: Place) -> BoolArray:
        """Bool [n]: the token, and all that must stay together with it, lies within the document."""
        if not len(self.ids):
            return np.zeros(0, dtype=bool)
        first = np.flatnonzero(np.diff(self.groups, prepend=-1))
        begin, end = self.begins[first], np.maximum.reduceat(self.ends, first)
        inside = (begin >= place.start) & (end <= place.end) & (begin < end)
        return np.asarray(inside[self.groups])

    def overlapping(self, start: int, end: int) -> tuple[int, ...]:
        """Positions of the tokens that share a character with ``[start, end)``."""
        return tuple(np.flatnonzero((self.begins < end) & (self.ends > start)).tolist())

    def sizes(self) -> list[int]:
        """Of each document, how many tokens share a character with it."""
        return [len(self.overlapping(place.start, place.end)) for place in self.places]

    def question(self, query: str) -> tuple[int, ...]:
        """Positions of the tokens of the question's last occurrence outside the documents; may be empty."""
        at = self.text.rfind(query) if query else -1
        while at >= 0:
            end = at + len(query)
            if not any(at < place.end and end > place.start for place in self.places):
                return self.overlapping(at, end)
            at = self.text.rfind(query, 0, end - 1)
        return ()


class ChatTemplate:
    """Renders chats with a tokenizer of transformers, and reads prompt strings, as vLLM does.

    Args:
        tokenizer: a fast one; for chats with a chat template.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def text(self, body: Body) -> str:
        """The prompt of a chat.

        Raises:
            UnreadableChatError: parts that are not text, or messages that the template refuses.
        """
        from jinja2 import TemplateError

        try:
            options = template_options(body.get("chat_template_kwargs"))
        except ApiError as error:
            raise UnreadableChatError("template", error.message) from error
        try:
            messages = [_called(message) for message in flatten_messages(body["messages"])]
            rendered: str = self.tokenizer.apply_chat_template(
                messages,
                tools=body.get("tools") or None,
                add_generation_prompt=True,
                tokenize=False,
                **options,
            )
        except ApiError as error:
            raise UnreadableChatError("not-text", error.message) from error
        except (TemplateError, ValueError, TypeError, KeyError) as error:
            raise UnreadableChatError("template", f"the chat template fails: {error}") from error
        return rendered

    def encode(self, text: str, *, special: bool = False) -> tuple[list[int], IntArray]:
        """Token ids, and int64 [n, 2] characters as the tokenizer gives them; ``special`` ones are added.

        Raises:
            UnreadableChatError: the text holds half a character, which no tokenizer reads.
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise UnreadableChatError("not-text", "it holds half a character (a lone surrogate)") from error
        encoded = self.tokenizer(text, add_special_tokens=special, return_offsets_mapping=True, verbose=False)
        return list(encoded["input_ids"]), np.asarray(encoded["offset_mapping"], dtype=np.int64).reshape(
            -1, 2
        )

    def read(self, body: Body, spans: Sequence[Span], protocol: Protocol) -> Rendered:
        """Render a chat and find documents of it in the prompt; a prompt string is read as it is.

        Those of a chat are found by rendering a second time with a mark in the place of each: what stands
        between the marks must be the same in both.

        Raises:
            UnreadableChatError: see `text`; or the template does not write a document as it is.
        """
        if not is_chat(body):
            ordered = sorted(spans, key=lambda span: span.start)
            encoded = self.encode(body["prompt"], special=adds_special(body))
            places = [Place(span, span.start, span.end) for span in ordered]
            return Rendered.of(body["prompt"], *encoded, places)
        text = self.text(body)
        marks = [_MARK.format(number) for number in range(len(spans))]
        marked = self.text(protocol.put_back(body, list(zip(spans, marks, strict=True))))
        places = []
        at, rest = 0, marked
        found_at = sorted(zip(marks, spans, strict=True), key=lambda item: marked.find(item[0]))
        for mark, span in found_at:
            before, found, rest = rest.partition(mark)
            start = at + len(before)
            end = start + len(span.text)
            if not found or mark in rest or text[at:start] != before or text[start:end] != span.text:
                raise UnreadableChatError("template", f"the chat template changes the text at {span.path}")
            places.append(Place(span, start, end))
            at = end
        if text[at:] != rest:
            raise UnreadableChatError("template", "the chat template writes more than the messages' text")
        ids, offsets = self.encode(text)
        return Rendered.of(text, ids, offsets, places)


def _called(message: dict[str, Any]) -> dict[str, Any]:
    """A message with the arguments of its tool calls as objects, which is how templates want them."""
    calls = message.get("tool_calls")
    if not isinstance(calls, list):
        return message
    out = []
    for call in calls:
        function = call.get("function") if isinstance(call, dict) else None
        arguments = function.get("arguments") if isinstance(function, dict) else None
        if isinstance(arguments, str):
            parsed = json.loads(arguments) if arguments else {}
            call = {**call, "function": {**cast("dict[str, Any]", function), "arguments": parsed}}
        out.append(call)
    return {**message, "tool_calls": out}
