"""Whether the upstream takes rows in place of pictures, for the served model, and reads them as the same."""

import asyncio
import json
import logging
import time
from dataclasses import dataclass
from typing import Any

from tokenprune_server.asgi_call import asgi_call
from tokenprune_server.protocols.base import Body
from tokenprune_server.types import ASGIApp, Headers
from tokenprune_server.vision.rows import RowGate

log = logging.getLogger("tokenprune.server")

SUPPORTED = ""
_TIMEOUT_S = 30.0
_BELIEVED_S = 3600.0
_RETRY_S = 10.0  # after an upstream that could not be asked, or may have changed
_MAX_MODELS = 64
_TEXT = "Describe the picture."
_TOP = 5  # logprobs that are compared
# Number formats and ways to resize a picture differ by hundredths; another checkpoint's rows by far more.
_MAX_DIFFERENCE = 1.0

WHY = {
    "no-embeds": "this upstream takes no image_embeds: start vLLM with --enable-mm-embeds",
    "not-vllm": "this upstream takes no image_embeds: only vLLM (started with --enable-mm-embeds) does",
    "hidden-size": "server.vision.model is not the vision part of the served model: its rows are of another "
    "size",
    "fixed-placeholders": "the served model cannot be pruned in front of the server: it computes from the "
    "size of a picture how many tokens it has (as Qwen2-VL does), so that there can be no fewer",
    "grid-mismatch": "server.vision.model is not the vision part of the served model: the upstream counts "
    "another number of tokens of the same picture",
    "answer-mismatch": "server.vision.model is not the vision part of the served model: the upstream answers "
    "to the rows of a picture otherwise than to the picture",
    "unequal-rows": "pictures of one request have different numbers of tokens, at which vLLM 0.32 would "
    "stop: give a number of tokens as keep (which is not enough with LLaVA-OneVision, whose ends of lines "
    "come on top), or install this project beside vLLM and set server.vision.unequal_rows",
    "unreachable": "the upstream could not be asked whether it takes image_embeds",
}


@dataclass(frozen=True, slots=True)
class Probe:
    """One picture, for the comparison.

    Attributes:
        url: the picture as a data URL.
        whole: all of its rows in base64, and how many there are.
        part: fewer rows.
    """

    url: str
    whole: tuple[str, int]
    part: tuple[str, int]


class Support:
    """Asks the upstream; what it said of a model is believed for a while.

    Args:
        app: the upstream.
        gate: what keeps different numbers of rows apart.
    """

    def __init__(self, app: ASGIApp, gate: RowGate) -> None:
        self._app, self._gate = app, gate
        self._known: dict[str | None, tuple[str, float]] = {}
        self._asking: dict[str | None, asyncio.Task[str]] = {}

    def known(self, model: Any) -> str | None:
        """Why pictures of a model cannot go as rows, as is believed now; "" when they can; None: unknown."""
        reason, until = self._known.get(_name(model), ("", 0.0))
        return reason if time.monotonic() < until else None

    def doubt(self, model: Any) -> None:
        """The upstream has refused a request: ask again soon, in case it is another one now."""
        name = _name(model)
        if name in self._known:
            reason, until = self._known[name]
            self._known[name] = reason, min(until, time.monotonic() + _RETRY_S)

    async def ask(self, model: Any, probe: Probe, headers: Headers) -> str:
        """Why pictures of a model cannot go as rows, a key of `WHY`; "" when they can.

        Requests ask together, and one that is given up does not stop the asking.
        """
        name = _name(model)
        asking = self._asking.get(name)
        if asking is None:
            asking = asyncio.ensure_future(self._learn(name, probe, headers))
            self._asking[name] = asking
            asking.add_done_callback(lambda task: self._asking.pop(name, None))
        return await asyncio.shield(asking)

    async def _learn(self, model: str | None, probe: Probe, headers: Headers) -> str:
        reason = await self._ask(model, probe, headers)
        if len(self._known) >= _MAX_MODELS:
            self._known.clear()
        believed = _RETRY_S if reason == "unreachable" else _BELIEVED_S
        self._known[model] = reason, time.monotonic() + believed
        if reason != SUPPORTED:
            log.warning("pictures of model %r go as they came: %s", model, WHY[reason])
        return reason

    async def _ask(self, model: str | None, probe: Probe, headers: Headers) -> str:
        async def chat(payload: str, rows: int) -> _Answer:
            async with self._gate.passing(rows):
                return await self._chat(model, {"type": "image_embeds", "image_embeds": payload}, headers)

        part = await chat(*probe.part)
        if part.tokens is None:
            return await self._refusal(part, headers)
        whole = await chat(*probe.whole)
        if whole.tokens is None:
            return await self._refusal(whole, headers)
        if whole.tokens - part.tokens != probe.whole[1] - probe.part[1]:
            return "fixed-placeholders"
        picture = await self._chat(model, {"type": "image_url", "image_url": {"url": probe.url}}, headers)
        if picture.tokens is None:
            # A vLLM that is started to take nothing but rows has no vision tower to compare with.
            return "unreachable" if picture.status >= 500 else SUPPORTED
        if picture.tokens != whole.tokens:
            log.warning("of one picture, the upstream counts %d tokens, we %d", picture.tokens, whole.tokens)
            return "grid-mismatch"
        return SUPPORTED if _alike(picture.top, whole.top) else "answer-mismatch"

    async def _refusal(self, answer: "_Answer", headers: Headers) -> str:
        if answer.status in (0, 401, 403, 404, 408, 429, 502, 503, 504):
            return "unreachable"
        log.warning("the upstream refuses image_embeds (%d): %s", answer.status, answer.error)
        if "enable-mm-embeds" in answer.error:
            return "no-embeds"
        if "dimension mismatch" in answer.error:
            return "hidden-size"
        return "fixed-placeholders" if await self._is_vllm(headers) else "not-vllm"

    async def _is_vllm(self, headers: Headers) -> bool:
        try:
            status, raw = await asgi_call(self._app, "GET", "/v1/models", headers, _TIMEOUT_S)
            models = json.loads(raw)["data"] if status == 200 else []
            return any(model.get("owned_by") == "vllm" for model in models)
        except (TimeoutError, ValueError, LookupError, TypeError, AttributeError):
            return False

    async def _chat(self, model: str | None, part: Body, headers: Headers) -> "_Answer":
        content = [part, {"type": "text", "text": _TEXT}]
        asked: Body = {
            **({} if model is None else {"model": model}),
            "messages": [{"role": "user", "content": content}],
            "max_tokens": 1,
            "temperature": 0,
            "logprobs": True,
            "top_logprobs": _TOP,
        }
        path, body = "/v1/chat/completions", json.dumps(asked).encode()
        try:
            status, raw = await asgi_call(self._app, "POST", path, headers, _TIMEOUT_S, body)
        except TimeoutError:
            return _Answer(0, None, {}, "no answer in time")
        try:
            answer = json.loads(raw)
            if status == 200:
                tokens = answer["usage"]["prompt_tokens"]
                said = answer["choices"][0].get("logprobs") or {"content": []}
                first = said["content"][0]["top_logprobs"] if said["content"] else []
                return _Answer(
                    status, int(tokens), {top["token"]: float(top["logprob"]) for top in first}, ""
                )
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return _Answer(status, None, {}, "an answer that is none of a chat")
        return _Answer(status, None, {}, raw[:1000].decode("utf-8", "replace"))


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    tokens: int | None
    top: dict[str, float]
    error: str


def _alike(mine: dict[str, float], other: dict[str, float]) -> bool:
    """Whether the likeliest first token has about the same logprob; with nothing to compare it has."""
    if not mine or not other:
        return True
    best = max(mine, key=lambda token: mine[token])
    return best in other and abs(mine[best] - other[best]) <= _MAX_DIFFERENCE


def _name(model: Any) -> str | None:
    return model if isinstance(model, str) else None
