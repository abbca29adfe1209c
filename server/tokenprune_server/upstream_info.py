"""What the upstream says of itself: the context of its models, and whether it keeps prefixes."""

import asyncio
import json
import logging
import re
import time
from collections.abc import Callable
from typing import Any

from tokenprune_server.asgi_call import asgi_call
from tokenprune_server.embedded_types import ApiError, flatten_messages
from tokenprune_server.protocols.base import Body
from tokenprune_server.types import ASGIApp, Headers

log = logging.getLogger("tokenprune.server")

_ASK_TIMEOUT_S = 5.0
_RETRY_S = 10.0  # a failed question is not asked again before
# What decides about the tokens of a prompt; the names are those of /tokenize.
_COUNTED = ("model", "prompt", "add_special_tokens", "messages", "tools", "chat_template_kwargs")
_CACHING = re.compile(rb'^vllm:cache_config_info\{[^\n]*enable_prefix_caching="(True|False)"', re.MULTILINE)


class UpstreamInfo:
    """Asks the upstream about itself, once and then now and again; concurrent requests ask together.

    ``/v1/models`` has the context length of each model. Where it shows that the upstream is a vLLM, its
    ``/metrics`` have the configuration of the prefix cache.

    Args:
        app: the upstream.
        max_model_len: context of every model, tokens; None to ask.
        ttl_s: seconds for which an answer is believed.
        on_caching: called with whether the upstream keeps prefixes, each time it says so; None: nobody wants
            to know.
    """

    def __init__(
        self,
        app: ASGIApp,
        max_model_len: int | None,
        ttl_s: float,
        on_caching: Callable[[bool], None] | None = None,
    ) -> None:
        self._app, self._fixed, self._ttl_s, self._on_caching = app, max_model_len, ttl_s, on_caching
        self._known: dict[str, int] = {}
        self._until = 0.0
        self._no_counts_until = 0.0
        self._refused: Headers | None = None  # with what it was asked when it answered nobody like that
        self._lock = asyncio.Lock()

    async def max_model_len(self, model: Any, authorization: Headers) -> int | None:
        """Tokens that fit the model, or None when the upstream does not say."""
        wanted = self._fixed is None or self._on_caching is not None
        if wanted and self._is_due(authorization):
            async with self._lock:
                if self._is_due(authorization):
                    await self._ask(authorization)
        if self._fixed is not None:
            return self._fixed
        if isinstance(model, str) and model in self._known:
            return self._known[model]
        # A server with one model often answers to any name, or to none.
        return next(iter(self._known.values())) if len(self._known) == 1 else None

    def _is_due(self, authorization: Headers) -> bool:
        if self._refused is not None and self._refused != authorization:
            return True  # one client's wrong key says nothing to the others
        return time.monotonic() >= self._until

    async def _ask(self, authorization: Headers) -> None:
        believed_s, self._refused = _RETRY_S, None
        try:
            status, body = await asgi_call(self._app, "GET", "/v1/models", authorization, _ASK_TIMEOUT_S)
            if status in (401, 403):
                self._refused = authorization
            if status != 200:
                return
            models = json.loads(body)["data"]
            lengths = {m["id"]: m["max_model_len"] for m in models if isinstance(m.get("max_model_len"), int)}
            self._known, believed_s = lengths, self._ttl_s
            if self._on_caching is not None and any(m.get("owned_by") == "vllm" for m in models):
                await self._ask_for_caching(self._on_caching, authorization)
        except (TimeoutError, ValueError, LookupError, TypeError, AttributeError) as error:
            log.warning("the upstream's /v1/models cannot be read: %r", error)
        finally:
            # Not before there is an answer: whoever comes in between waits for it.
            self._until = time.monotonic() + believed_s

    async def count(self, body: Body, authorization: Headers) -> int | None:
        """Tokens of a prompt as the upstream counts them; None when it does not say.

        A vLLM says it (``/tokenize``), of one prompt of texts.
        """
        if time.monotonic() < self._no_counts_until:
            return None
        asked = {name: body[name] for name in _COUNTED if body.get(name) is not None}
        try:
            if not isinstance(asked.get("prompt", ""), str):
                return None
            flatten_messages(asked.get("messages", []))
        except (ApiError, AttributeError, TypeError):  # more than texts, or what no server takes
            return None
        try:
            raw = json.dumps(asked).encode()
            status, answer = await asgi_call(
                self._app, "POST", "/tokenize", authorization, _ASK_TIMEOUT_S, raw
            )
            tokens = json.loads(answer)["count"] if status == 200 else None
        except (TimeoutError, ValueError, LookupError, TypeError) as error:
            log.warning("the upstream's /tokenize cannot be read: %r", error)
            return None
        if status in (404, 405, 501):
            self._no_counts_until = time.monotonic() + self._ttl_s
            log.warning(
                "the upstream counts no tokens for us (/tokenize answered %d): whether a prompt fits goes by "
                "the tokenizer of the configuration, which should be the served model's",
                status,
            )
        return tokens if isinstance(tokens, int) and tokens > 0 else None

    async def _ask_for_caching(self, tell: Callable[[bool], None], authorization: Headers) -> None:
        try:
            status, body = await asgi_call(self._app, "GET", "/metrics", authorization, _ASK_TIMEOUT_S)
        except TimeoutError as error:
            log.warning("the upstream's /metrics cannot be read: %r", error)
            return
        said = _CACHING.search(body) if status == 200 else None
        if said is not None:
            tell(said[1] == b"True")
