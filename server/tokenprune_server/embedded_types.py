"""Requests and answers of the embedded server, in the shapes of OpenAI's API as vLLM serves it."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictInt, ValidationError

from tokenprune.engine.sampling import SamplingParams
from tokenprune.validation import first_fault, line


class ApiError(Exception):
    """An error that is answered in OpenAI's shape."""

    _TYPES: ClassVar[dict[int, str]] = {
        400: "BadRequestError",
        404: "NotFoundError",
        405: "MethodNotAllowedError",
        413: "RequestEntityTooLargeError",
        500: "InternalServerError",
        503: "ServiceUnavailableError",
    }

    def __init__(self, status: int, message: str, param: str | None = None) -> None:
        """Keep the HTTP status, the message and the parameter it is about."""
        super().__init__(message)
        self.status, self.message, self.param = status, message, param

    def body(self) -> dict[str, Any]:
        """Return the JSON body."""
        kind = self._TYPES.get(self.status, "InternalServerError")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.status}}


class StreamOptions(BaseModel):
    """``stream_options`` of a request."""

    include_usage: bool = False


class GenerationRequest(BaseModel):
    """What chat and text completions have in common; other fields are looked at by :func:`parse`."""

    model_config = ConfigDict(extra="allow")

    model: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    return_token_ids: bool | None = False

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with a usage chunk."""
        return self.stream_options is not None and self.stream_options.include_usage

    def sampling(self, max_tokens: int | None) -> SamplingParams:
        """Return the engine's parameters; raises SamplingError for values out of range."""
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return SamplingParams(
            max_tokens=max_tokens,
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            # vLLM takes -1 for "all" as well
            top_k=0 if self.top_k is None or self.top_k == -1 else self.top_k,
            seed=self.seed,
            stop=tuple(stop),
            stop_token_ids=frozenset(self.stop_token_ids or ()),
            ignore_eos=self.ignore_eos,
        )


class ChatRequest(GenerationRequest):
    """POST /v1/chat/completions."""

    messages: list[dict[str, Any]] = Field(min_length=1)
    max_completion_tokens: int | None = None
    tools: list[dict[str, Any]] | None = None
    documents: list[dict[str, Any]] | None = None
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    add_special_tokens: Literal[False] | None = None
    chat_template_kwargs: dict[str, Any] | None = None


class CompletionRequest(GenerationRequest):
    """POST /v1/completions."""

    prompt: str | list[StrictInt] | list[str] | list[list[StrictInt]]
    max_tokens: int | None = 16
    add_special_tokens: bool = True


# Fields that would change the answer and that this server cannot honour, with the values that ask for
# nothing.
_UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "use_beam_search": (False,),
    "echo": (False,),
    "suffix": ("",),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "prompt_logprobs": (),
    "logit_bias": ({},),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "repetition_penalty": (1,),
    "min_p": (0,),
    "min_tokens": (0,),
    "prompt_embeds": (),
    "functions": ([],),
    "response_format": ({"type": "text"},),
    "structured_outputs": (),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": (),
    "guided_grammar": (),
    "modalities": (["text"],),
    "chat_template": (),
    "allowed_token_ids": ([],),
    "bad_words": ([],),
    "truncate_prompt_tokens": (),
    "skip_special_tokens": (True,),
    "include_stop_str_in_output": (False,),
    "tool_choice": ("none", "auto"),
}


def parse(kind: type[GenerationRequest], body: bytes) -> GenerationRequest:
    """Read a request body.

    Raises:
        ApiError: 400: malformed JSON, a wrong type, or a field this server cannot honour.
    """
    try:
        data = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"The request body is not valid JSON: {error}") from error
    if not isinstance(data, dict):
        raise ApiError(400, "The request body must be a JSON object.")
    try:
        request = kind.model_validate(data)
    except ValidationError as error:
        field, message = first_fault(error)
        raise ApiError(400, line(field, message), field) from error
    for field, harmless in _UNSUPPORTED.items():
        value = data.get(field)
        # Not by `==` alone: zero log probabilities are asked for in another way than none.
        if value is not None and not any(
            value == allowed and isinstance(value, bool) == isinstance(allowed, bool) for allowed in harmless
        ):
            raise ApiError(400, f"The embedded engine does not support {field}={value!r}."[:500], field)
    return request


def flatten_messages(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the messages with text content only, text parts joined by newlines as vLLM joins them.

    Raises:
        ApiError: 400: a message without a role, or a part that is not text.
    """
    flat: list[dict[str, Any]] = []
    for index, message in enumerate(messages):
        if not isinstance(message.get("role"), str):
            raise ApiError(400, f"messages[{index}] has no role.", "messages")
        content = message.get("content")
        if isinstance(content, list):
            content = "\n".join(_part_text(part, index) for part in content)
        elif content is None:
            content = ""
        elif not isinstance(content, str):
            raise ApiError(400, f"messages[{index}].content must be a string or a list of parts.", "messages")
        flat.append({**message, "content": content})
    return flat


def template_options(options: Any) -> dict[str, Any]:
    """Return ``chat_template_kwargs`` that only fill the template.

    Raises:
        ApiError: 400: they would replace the template or what is made of it; a foreign template may run for
            hours.
    """
    given = options or {}
    if not isinstance(given, dict):
        raise ApiError(400, "chat_template_kwargs must be an object.", "chat_template_kwargs")
    for name in ("chat_template", "tokenize"):
        if name in given:
            raise ApiError(400, f"chat_template_kwargs must not hold {name!r}.", "chat_template_kwargs")
    return given


def _part_text(part: Any, index: int) -> str:
    if isinstance(part, str):
        return part
    kind = part.get("type") if isinstance(part, dict) else None
    if kind in ("text", "input_text", "output_text") and isinstance(part.get("text"), str):
        text: str = part["text"]
        return text
    if kind == "refusal" and isinstance(part.get("refusal"), str):
        refusal: str = part["refusal"]
        return refusal
    raise ApiError(
        400, f"messages[{index}] has a part of type {kind!r}; this model reads text only.", "messages"
    )


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    """Return a usage object."""
    return {
        "prompt_tokens": prompt_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "completion_tokens": completion_tokens,
    }


@dataclass(frozen=True, slots=True)
class Shape:
    """Builds the answers of one request: chat or text, whole or in chunks."""

    kind: Literal["chat", "text"]
    id: str
    model: str
    created: int
    token_ids: bool

    @classmethod
    def new(cls, kind: Literal["chat", "text"], request_id: str, model: str, token_ids: bool) -> Shape:
        """Start an answer now."""
        prefix = "chatcmpl" if kind == "chat" else "cmpl"
        return cls(kind, f"{prefix}-{request_id}", model, int(time.time()), token_ids)

    def whole(
        self, choices: list[dict[str, Any]], used: Mapping[str, int], prompt: list[int]
    ) -> dict[str, Any]:
        """Return a complete answer."""
        name = "chat.completion" if self.kind == "chat" else "text_completion"
        answer = {**self._head(name), "choices": choices, "usage": dict(used)}
        if self.token_ids and self.kind == "chat":
            answer["prompt_token_ids"] = prompt
        return answer

    def choice(
        self,
        index: int,
        text: str,
        finish: str | None,
        stop: str | int | None,
        ids: list[int],
        prompt: list[int],
    ) -> dict[str, Any]:
        """Return one choice of a complete answer."""
        choice: dict[str, Any] = {"index": index}
        if self.kind == "chat":
            choice["message"] = {"role": "assistant", "content": text}
        else:
            choice["text"] = text
        choice.update(logprobs=None, finish_reason=finish, stop_reason=stop)
        if self.token_ids:
            choice["token_ids"] = ids
            if self.kind == "text":
                choice["prompt_token_ids"] = prompt
        return choice

    def role_chunk(self, prompt: list[int]) -> dict[str, Any]:
        """Return the first chunk of a chat stream."""
        delta = {"role": "assistant", "content": ""}
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}
        chunk = {**self._head("chat.completion.chunk"), "choices": [choice]}
        if self.token_ids:
            chunk["prompt_token_ids"] = prompt
        return chunk

    def chunk(
        self,
        index: int,
        text: str,
        finish: str | None,
        stop: str | int | None,
        ids: list[int],
        prompt: list[int] | None,
    ) -> dict[str, Any]:
        """Return a chunk of new text; ``finish`` is set in the last, ``prompt`` may go with the first."""
        choice: dict[str, Any] = {"index": index}
        if self.kind == "chat":
            choice["delta"] = {"content": text}
        else:
            choice["text"] = text
        choice.update(logprobs=None, finish_reason=finish)
        if finish is not None:
            choice["stop_reason"] = stop
        if self.token_ids:
            choice["token_ids"] = ids
            if self.kind == "text":
                choice["prompt_token_ids"] = prompt
        return {**self._head(self._chunk_name), "choices": [choice]}

    def usage_chunk(self, used: Mapping[str, int]) -> dict[str, Any]:
        """Return the chunk that ends a stream when usage was asked for."""
        return {**self._head(self._chunk_name), "choices": [], "usage": dict(used)}

    @property
    def _chunk_name(self) -> str:
        return "chat.completion.chunk" if self.kind == "chat" else "text_completion"

    def _head(self, name: str) -> dict[str, Any]:
        return {"id": self.id, "object": name, "created": self.created, "model": self.model}
