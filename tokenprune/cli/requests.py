"""Requests as the proxy reads them, without a proxy: what may be pruned, and what would become of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tokenprune.bench.casefile import Line, parse_json
from tokenprune.config import Config
from tokenprune.document import Document
from tokenprune.errors import ConfigError, MissingExtraError

if TYPE_CHECKING:
    from tokenprune_server.protocols.base import Protocol
    from tokenprune_server.rewrite import Rewriter

CHAT, COMPLETIONS, DOCUMENTS = "/v1/chat/completions", "/v1/completions", "documents"
_WRAPPERS = ("request", "body")
_EXPECTED = (
    'expected a request body with "messages" or "prompt", the same in {"request": ...} or {"body": ...}, or '
    '{"question", "documents"}'
)


def _server(part: str) -> None:
    try:
        import tokenprune_server.rewrite  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingExtraError(part, "server", error.name or "tokenprune_server") from error


def documents_of(messages: Sequence[Mapping[str, Any]]) -> tuple[Document, ...]:
    """Return the documents that the proxy would find in chat messages.

    Raises:
        MissingExtraError: the server part is not installed.
    """
    _server("finding the context of messages")
    from tokenprune_server.protocols.base import Rules
    from tokenprune_server.protocols.chat import ChatProtocol

    located = ChatProtocol().locate({"messages": [dict(m) for m in messages]}, Rules())
    return tuple(
        Document(span.text, kind=span.kind, title=span.title) for job in located.jobs for span in job.spans
    )


@dataclass(frozen=True)
class Asked:
    """A request of a log.

    Attributes:
        kind: its route, or ``documents``.
        body: as it is sent to a chat or completions route.
    """

    kind: str
    body: dict[str, Any]


def parse(line: str) -> Asked:
    """Read a line of a log.

    Raises:
        ConfigError: it is no request; the message says what is expected.
    """
    try:
        value = parse_json(line)
    except ConfigError as error:
        raise ConfigError(f"{error}; {_EXPECTED}") from None
    route = None
    for _ in range(3):
        if not isinstance(value, dict):
            break
        route = next((v for k in ("url", "path", "route") if isinstance(v := value.get(k), str)), route)
        inner = next((value[k] for k in _WRAPPERS if isinstance(value.get(k), dict)), None)
        if inner is None:
            break
        value = inner
    if not isinstance(value, dict):
        raise ConfigError(_EXPECTED)
    if value.get("messages") == []:
        raise ConfigError(f"messages is empty; {_EXPECTED}")
    if isinstance(value.get("messages"), list):
        return Asked(CHAT, value)
    if isinstance(value.get("prompt"), str | list) and (
        route is None or not route.endswith("/chat/completions")
    ):
        return Asked(COMPLETIONS, value)
    if "documents" in value and "question" in value:
        case = Line.parse(value).source("line").case()
        options = {} if case.options is None else {"tokenprune": dict(case.options)}
        return Asked(DOCUMENTS, {"messages": [dict(m) for m in case.messages], **options})
    raise ConfigError(_EXPECTED)


@dataclass(frozen=True)
class Rewritten:
    """What would become of a request.

    Attributes:
        before: the prompt as it came, its texts in a row.
        after: as it would go.
        decision: of the proxy.
        seconds: that deciding and pruning took.
    """

    before: str
    after: str
    decision: str
    seconds: float


def rewriting(config: Config, options: Mapping[str, Any]) -> Callable[[Asked], Rewritten]:
    """Return a function that does with a request what the proxy would do.

    Args:
        config: pipelines and the settings of the server.
        options: win over what a request asks for (``method``, ``max_tokens``, ``keep_ratio``).

    Raises:
        MissingExtraError: the server part is not installed.
    """
    _server("tokenprune estimate")
    from tokenprune_server.gate import Gate
    from tokenprune_server.receipts import ReceiptStore
    from tokenprune_server.rewrite import Rewriter
    from tokenprune_server.settings import ServerSettings

    # The gate learns from answers, of which a log has none: every request is pruned.
    settings = ServerSettings.load({**config.server, "gate": "off"})
    rewriter = Rewriter(config, settings, ReceiptStore(0, 0), Gate(settings))
    return lambda asked: _rewritten(rewriter, asked, options)


def _rewritten(rewriter: Rewriter, asked: Asked, options: Mapping[str, Any]) -> Rewritten:
    from tokenprune_server.errors import RequestError
    from tokenprune_server.options import read_options
    from tokenprune_server.protocols import BY_ROUTE
    from tokenprune_server.request import Request, plain_body

    protocol = BY_ROUTE[CHAT if asked.kind == DOCUMENTS else asked.kind]
    body = {k: v for k, v in asked.body.items() if k != "tokenprune"}
    given = asked.body.get("tokenprune")
    if given is not None and not isinstance(given, dict):
        raise ConfigError("tokenprune must be an object")
    try:
        merged = _merged(given or {}, options)
        request = Request(protocol, body, read_options(merged or None, []), 0, None)
        begin = time.perf_counter()
        if request.options.enabled is False:
            decision, new = "skipped:disabled", None
        else:
            outcome = rewriter(request)
            decision, new = outcome.decision, outcome.body
        seconds = time.perf_counter() - begin
    except RequestError as error:
        raise ConfigError(str(error)) from None
    plain = plain_body(request)
    before, after = (_text(protocol, b) for b in (plain, plain if new is None else new))
    return Rewritten(before, after, decision, seconds)


def _text(protocol: Protocol, body: dict[str, Any]) -> str:
    """All that the model reads; a body may hold several prompts."""
    return "\n".join(text for prompt in protocol.prompt_texts(body) for text in prompt)


def _merged(given: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """A request's options under those of the command; only one budget and one method may be left."""
    merged = dict(given)
    for pair in (("max_tokens", "keep_ratio"), ("method", "pipeline")):
        if any(name in options for name in pair):
            for name in pair:
                merged.pop(name, None)
    return {**merged, **options}
