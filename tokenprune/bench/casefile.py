"""The user's own workload: a JSONL file, plain or ``.gz``, one request a line.

Either the messages as they are sent, or a question and its documents, which are then written as
`tokenprune.bench.source.context_pieces` does::

    {"messages": [{"role": "user", "content": "..."}], "answers": ["1889"], "evidence": ["Done in 1889."]}
    {"question": "When was it finished?", "documents": ["...", {"title": "Tower", "text": "..."}]}

Both may have ``id``, ``question``, ``answers``, ``evidence``, ``group``, ``max_tokens`` and ``tokenprune``
(the options of the proxy).
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from tokenprune.bench.source import ANSWER_TOKENS, Source, Turn, question_turn
from tokenprune.document import Document
from tokenprune.errors import ConfigError
from tokenprune.validation import STRINGS_ARE_TEXTS, first_fault, line

EXPECTED = (
    'expected {"messages": [{"role", "content"}, ...]} or {"question": "...", "documents": ["...", '
    '{"text", "title"}]}, and optional id, answers, evidence, group, max_tokens, tokenprune'
)


class _Text(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    text: str
    title: str | None = None
    kind: Literal["html", "text"] | None = None


class Line(BaseModel):
    """One line of a file."""

    model_config = ConfigDict(extra="forbid", strict=True)
    id: str | int | None = None
    messages: list[dict[str, Any]] | None = Field(None, min_length=1)
    question: str | None = None
    documents: Annotated[list[_Text] | None, STRINGS_ARE_TEXTS] = Field(None, min_length=1)
    answers: list[str] = []
    evidence: list[str] = []
    group: str | None = None
    max_tokens: int = Field(ANSWER_TOKENS, ge=1)
    tokenprune: dict[str, Any] | None = None

    @field_validator("messages")
    @classmethod
    def _roles(cls, value: list[dict[str, Any]] | None) -> list[dict[str, Any]] | None:
        for n, message in enumerate(value or ()):
            role = message.get("role")
            if not isinstance(role, str):
                raise ValueError(f"message {n} has no role")
            calls = role == "assistant" and any(message.get(key) for key in ("tool_calls", "function_call"))
            if message.get("content") is None and not calls:
                raise ValueError(f"message {n} ({role}) has no content")
        return value

    @model_validator(mode="after")
    def _one_form(self) -> Line:
        if (self.messages is None) == (self.documents is None):
            raise ValueError("give either messages, or question and documents")
        if self.documents is not None and not (self.question or "").strip():
            raise ValueError("documents need a question")
        return self

    @classmethod
    def parse(cls, value: Any) -> Line:
        """Check a parsed line.

        Raises:
            ConfigError: it is wrong; the message says where first.
        """
        if not isinstance(value, dict):
            raise ConfigError("not a JSON object")
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            raise ConfigError(line(*first_fault(error))) from None

    def source(self, name: str) -> Source:
        """Return the source; ``name`` is its id if it has none."""
        question = self.question
        if self.messages is not None:
            turns = tuple(_turn(message) for message in self.messages)
            question = _last_words(self.messages) if question is None else question
        else:
            given = [Document(d.text, kind=d.kind, title=d.title) for d in self.documents or ()]
            turns = (question_turn(given, question or ""),)
        return Source(
            id=str(self.id) if self.id is not None else name,
            question=question or "",
            turns=turns,
            answers=tuple(self.answers),
            evidence=tuple(self.evidence),
            group=self.group,
            max_tokens=self.max_tokens,
            options=self.tokenprune,
        )


def _turn(message: dict[str, Any]) -> Turn:
    rest = {key: value for key, value in message.items() if key != "role"}
    return Turn(message["role"], (), {"content": "", **rest})


def _last_words(messages: list[dict[str, Any]]) -> str:
    """The text of the last user message."""
    content = next((m.get("content") for m in reversed(messages) if m["role"] == "user"), "")
    if isinstance(content, list):
        content = "\n".join(str(p.get("text", "")) for p in content if isinstance(p, dict))
    return str(content or "").strip()


def read(path: Path) -> Iterator[Source]:
    """Yield the requests of a file.

    Raises:
        ConfigError: the file cannot be read, a line is wrong (the message names it), or two ids are equal.
    """
    seen: dict[str, int] = {}
    number = 0
    try:
        with (
            gzip.open(path, "rt", encoding="utf-8-sig")
            if path.suffix == ".gz"
            else path.open(encoding="utf-8-sig") as lines
        ):
            for number, text in enumerate(lines, 1):
                if not text.strip():
                    continue
                source = Line.parse(parse_json(text)).source(f"{path.name.partition('.')[0]}-{number}")
                if source.id in seen:
                    raise ValueError(f"the id {source.id!r} stands in line {seen[source.id]} already")
                seen[source.id] = number
                yield source
    except (OSError, EOFError, zlib.error) as error:
        raise ConfigError(
            f"cannot read the workload {path}: {getattr(error, 'strerror', None) or error}"
        ) from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}, line {number + 1}: not UTF-8") from None
    except (ConfigError, ValueError) as error:
        raise ConfigError(f"{path}, line {number}: {error}; {EXPECTED}") from None


def parse_json(text: str) -> Any:
    """Read a line.

    Raises:
        ConfigError: it is no JSON; the message says at which character, and names no line.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"not JSON ({error.msg} at character {error.pos})") from None
    except RecursionError:
        raise ConfigError("not JSON that can be read (nested too deeply)") from None
