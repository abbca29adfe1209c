"""What every protocol adapter has in common: spans of text in a request, and putting them back.

An adapter only LOCATES text (what is a document, what is the question) and PUTS pruned text BACK. Every
character outside a span (the frame) stays as it is, so putting back unchanged text gives the same request.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from tokenprune_server.errors import RequestError

Path = tuple[str | int, ...]
Body = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Rules:
    """What counts as a document.

    Attributes:
        min_tokens: documents of a prompt that are shorter in sum are not looked at (tokens are estimated
            here, see `estimate_tokens`).
        min_part_tokens: a single text below this is never a document.
        prune_code_fences: whether ``` blocks are part of documents.
        query: the query, when the request names one; the last user question is it otherwise.
        earlier: whether long texts in user messages before the last answer are documents, too.
    """

    min_tokens: int = 200
    min_part_tokens: int = 30
    prune_code_fences: bool = False
    query: str | None = None
    earlier: bool = False


@dataclass(frozen=True, slots=True)
class Span:
    """A document inside a string of the request.

    Attributes:
        path: where the string is in the request's JSON.
        start: first character of the document in that string.
        end: one past the last character.
        text: the document; differs from the raw characters only in JSON strings.
        kind: ``html`` or ``text``.
        title: title of the document, when its frame gives one.
        drop: the wider range (label, passage, gap) that goes when nothing of the document is kept.
        quoted: the raw characters are a JSON string literal inside the string.
    """

    path: Path
    start: int
    end: int
    text: str
    kind: Literal["html", "text"]
    title: str | None = None
    drop: tuple[int, int] | None = None
    quoted: bool = False


@dataclass(frozen=True, slots=True)
class Job:
    """The documents of one prompt and the question they are judged by.

    ``query`` is None when no question was found, or (``whole_text``) one that needs all of the text.
    """

    query: str | None
    spans: tuple[Span, ...]
    whole_text: bool = False


@dataclass(frozen=True, slots=True)
class Located:
    """What an adapter found: one job per prompt.

    Attributes:
        jobs: the documents and the question of each prompt.
        short: texts that were too short to be documents.
        few_shot: texts that are no documents because they are worked examples.
    """

    jobs: tuple[Job, ...]
    short: int = 0
    few_shot: int = 0


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of a prompt, or the whole of a prompt that is a plain string.

    Attributes:
        path: where it is in the request's JSON; () for what stands before the messages (tools).
        role: who speaks; "" where nobody is named.
        pieces: what the model reads of it, in order: strings with their paths, all else as JSON with path ().
        marked: the client asks the upstream to cache the prompt up to here (``cache_control``).
    """

    path: Path
    role: str
    pieces: tuple[tuple[Path, str], ...]
    marked: bool = False


@dataclass(frozen=True, slots=True)
class Context:
    """A document that came beside the messages (option ``contexts``)."""

    text: str
    kind: Literal["html", "text"] | None = None
    title: str | None = None
    id: str | None = None


class Protocol(ABC):
    """One prunable route."""

    routes: tuple[str, ...]

    @abstractmethod
    def locate(self, body: Body, rules: Rules) -> Located:
        """Find the documents and the question; never raises on odd bodies (what is odd is no document)."""

    @abstractmethod
    def prompt_texts(self, body: Body) -> list[list[str]]:
        """Every text the model will read, of each prompt, to count its tokens."""

    @abstractmethod
    def prompts(self, body: Body) -> list[tuple[Turn, ...]]:
        """The turns of each prompt, as a prefix cache sees them one after the other."""

    @abstractmethod
    def output_tokens(self, body: Body, default: int) -> int:
        """Room the request reserves for the answer, in tokens."""

    @abstractmethod
    def insert_contexts(self, body: Body, contexts: Sequence[Context]) -> Body:
        """The body with a context block before the last user question; raises RequestError if impossible."""

    def put_back(self, body: Body, edits: Sequence[tuple[Span, str]]) -> Body:
        """The body with each span's text replaced; parts of it that do not change are shared, not copied."""
        by_path: dict[Path, list[tuple[Span, str]]] = {}
        for span, text in edits:
            if text != span.text:
                by_path.setdefault(span.path, []).append((span, text))
        for path, changes in by_path.items():
            body = cast("Body", replaced(body, path, splice(cast(str, value_at(body, path)), changes)))
        return body


def splice(original: str, changes: Sequence[tuple[Span, str]]) -> str:
    """``original`` with the (not overlapping) spans replaced; wholly dropped ones take their label along."""
    out: list[str] = []
    at = 0
    for span, text in sorted(changes, key=lambda change: change[0].start):
        start, end = span.drop if span.drop is not None and not text else (span.start, span.end)
        if span.kind == "html" and not span.quoted:
            text = _apart(original[start - 1 : start] if start else "", text, original[end : end + 1])
        out += [original[at:start], _quoted(text) if span.quoted else text]
        at = end
    out.append(original[at:])
    return "".join(out)


def _apart(before: str, page: str, behind: str) -> str:
    """A pruned page with a line end where words would run together that its outermost tags kept apart."""
    if not page:
        return "\n" if before.strip() and behind.strip() else page
    first = "\n" if before.strip() and not page[0].isspace() else ""
    return first + page + ("\n" if behind.strip() and not page[-1].isspace() else "")


def _quoted(text: str) -> str:
    """A JSON string; half of a surrogate pair, which no tokenizer reads, stays escaped."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(text)
    return json.dumps(text, ensure_ascii=False)


def value_at(value: Any, path: Path) -> Any:
    """The value at a path of keys and indices."""
    for step in path:
        value = value[step]
    return value


def replaced(value: Any, path: Path, new: Any) -> Any:
    """A copy of ``value`` with another value at ``path``; only the containers on the way are copied."""
    if not path:
        return new
    copy: Any = dict(value) if isinstance(value, Mapping) else list(value)
    copy[path[0]] = replaced(copy[path[0]], path[1:], new)
    return copy


def estimate_tokens(text: str) -> int:
    """Tokens of a text, roughly and fast: 4 ASCII characters make one, every other character is one."""
    other = 0 if text.isascii() else len(text) - len(text.encode("ascii", "ignore"))
    return (len(text) - other) // 4 + other


def long_enough(spans: Sequence[Span], rules: Rules) -> bool:
    """Whether the documents of a prompt are worth pruning; the minimum holds for their sum."""
    return sum(estimate_tokens(span.text) for span in spans) >= rules.min_tokens


def context_block(contexts: Sequence[Context]) -> str:
    """Contexts as numbered passages; a wholly dropped one leaves, and the others keep their numbers."""
    passages = []
    for number, context in enumerate(contexts, 1):
        if context.text.strip():
            title = f" Title: {context.title}" if context.title else ""
            passages.append(f"[{number}]{title}\n{context.text.strip()}\n\n")
    return "Context:\n" + "".join(passages) if passages else ""


def limit_of(body: Body, names: tuple[str, ...], default: int) -> int:
    """The first positive integer among the named fields."""
    for name in names:
        value = body.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return default


def no_place(what: str) -> RequestError:
    """The error for contexts that cannot be inserted."""
    return RequestError(f"tokenprune.contexts needs {what}", param="tokenprune.contexts")
