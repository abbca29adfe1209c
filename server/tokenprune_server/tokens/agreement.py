"""Whether the upstream reads and answers token ids as it does the same chat or prompt string.

A model's tokenizer, template and way of answering are compared with ours at first use. Each prompt is
compared again: templates may write today's date, or treat a kind of message otherwise.
"""

import asyncio
import json
import logging
import time
from collections.abc import Sequence
from typing import Any

from tokenprune_server.asgi_call import asgi_call
from tokenprune_server.protocols.base import Body
from tokenprune_server.tokens.mapping import completion
from tokenprune_server.tokens.render import ChatTemplate, is_chat
from tokenprune_server.types import ASGIApp, Headers

log = logging.getLogger("tokenprune.server")

AGREES = ""
_TIMEOUT_S = 20.0
_RETRY_S = 10.0  # after an upstream that could not be asked
_BELIEVED_S = 600.0
_MAX_MODELS = 64
_NO_ROUTE = (403, 404, 405, 501)
_PROBE_TOKENS = 6  # of an answer by both routes

# What tokenizers are known to differ in: normal forms, emoji, scripts, runs of spaces, digits, code, and text
# that looks like a special token.
_TEXTS = (
    "The naïve café – “quoted” – cost 3.50 € in 2024, n° 12345678901.",
    "e\u0301 é Å Å ﬁ ½ ① Ⅳ ＡＢ",
    "👩‍👩‍👧 🇩🇪 𝔘 日本語の文です。中文句子。한국어 ไทย עברית العربية",
    "  two  spaces\n\n\n\tnew\r\nlines \u00a0\u200b\u2028 end  ",
    "def f(x):\n    return {'a': [1, 2], \"b\": x**2}  # <tag> &amp; </tag>",
    "a<b>c [INST] <s> </s> <|user|> <|eot_id|> <pad>",
)
_CHAT: Body = {
    "messages": [
        {"role": "system", "content": "You answer in few words."},
        {"role": "user", "content": "Say which of these is a colour:\n\n- stone\n- green"},
        {"role": "assistant", "content": "Green."},
        {"role": "user", "content": " Name another colour. "},
    ]
}


class Agreement:
    """Asks the upstream; what it said of a model is believed for a while.

    Args:
        app: the upstream.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._known: dict[tuple[str | None, bool], tuple[str, float]] = {}  # by model, of chats or strings
        self._lock = asyncio.Lock()
        self._renders = True  # whether the upstream has its own route to render; until it says otherwise

    async def prompt(self, template: ChatTemplate, body: Body, ids: Sequence[int], headers: Headers) -> str:
        """Why what was rendered cannot go as ids; "" when the upstream would read the very same."""
        model = body.get("model") if isinstance(body.get("model"), str) else None
        chat = is_chat(body)
        found = await self._model(template, model, headers, chat)
        if found != AGREES:
            return found
        try:
            theirs = await (self._rendered(body, headers) if chat else self._read(body, headers))
        except _CannotAskError as error:
            log.warning("the upstream does not say how it reads a chat: %s", error)
            return error.reason
        if theirs == list(ids):
            return AGREES
        log.warning(
            "the upstream reads a prompt as %d tokens that differ from our %d: it goes as text",
            len(theirs),
            len(ids),
        )
        return "prompt-mismatch"

    async def _model(self, template: ChatTemplate, model: str | None, headers: Headers, chat: bool) -> str:
        """Why no chat, or no prompt string, with a model can go as ids."""
        key = model, chat
        reason, until = self._known.get(key, ("", 0.0))
        if time.monotonic() < until:
            return reason
        async with self._lock:
            reason, until = self._known.get(key, ("", 0.0))
            if time.monotonic() < until:
                return reason
            believed = _BELIEVED_S
            try:
                reason = await self._probe(template, model, headers, chat)
            except _CannotAskError as error:
                reason, believed = error.reason, _RETRY_S if error.for_now else _BELIEVED_S
                log.warning("tokens go as text, the upstream cannot be compared: %s", error)
            if len(self._known) >= _MAX_MODELS:
                self._known.clear()
            self._known[key] = reason, time.monotonic() + believed
        return reason

    async def _probe(self, template: ChatTemplate, model: str | None, headers: Headers, chat: bool) -> str:
        about = {} if model is None else {"model": model}
        special = [text for text in template.tokenizer.all_special_tokens if isinstance(text, str)]
        texts = [*_TEXTS, " ".join(special), "".join(special)]
        texts = [text for text in texts if text]
        ask: list[Body] = [{**about, "prompt": text, "add_special_tokens": False} for text in texts]
        theirs = await asyncio.gather(*(self._tokenize(question, headers) for question in ask))
        for text, ids in zip(texts, theirs, strict=True):
            ours = await asyncio.to_thread(template.encode, text)
            if ids != ours[0]:
                log.error(
                    "the upstream's tokenizer is not %r: it makes %s of %r, ours makes %s; tokens go as text "
                    "(setting server.tokens.tokenizer)",
                    template.tokenizer.name_or_path,
                    ids[:20],
                    text[:40],
                    ours[0][:20],
                )
                return "tokenizer-mismatch"
        if not chat:
            string = {**about, "prompt": _TEXTS[0]}
            return await self._answers(string, template.encode(_TEXTS[0], special=True)[0], headers)
        asked = {**about, **_CHAT}
        ids = (await asyncio.to_thread(template.encode, template.text(asked)))[0]
        if await self._rendered(asked, headers) != ids:
            log.error(
                "the upstream's chat template differs from that of %r: tokens go as text",
                template.tokenizer.name_or_path,
            )
            return "template-mismatch"
        return await self._answers(asked, ids, headers)

    async def _answers(self, body: Body, ids: list[int], headers: Headers) -> str:
        """Whether ids give the same text: a server that parses reasoning out of chats does not."""
        asked = {**body, "temperature": 0, "max_tokens": _PROBE_TOKENS}
        whole = completion(asked, ids, None)
        chat = is_chat(body)
        said = await self._ask("/v1/chat/completions" if chat else "/v1/completions", asked, headers)
        continued = await self._ask("/v1/completions", whole or {}, headers)
        try:
            mine, other = said["choices"][0], continued["choices"][0]
            text = mine["message"]["content"] if chat else mine["text"]
            same = text == other["text"] and all(
                mine.get(name) == other.get(name) for name in ("finish_reason", "stop_reason")
            )
            same = same and said["usage"]["prompt_tokens"] == continued["usage"]["prompt_tokens"] == len(ids)
            parsed = (said["usage"].get("completion_tokens_details") or {}).get(
                "reasoning_tokens"
            ) is not None
        except (LookupError, TypeError, AttributeError) as error:
            raise _CannotAskError("no-ids", f"an answer without choices: {error!r}") from error
        if same and not parsed:
            return AGREES
        log.error(
            "the upstream answers a prompt with %r and the same tokens with %r: tokens go as text",
            text,
            other["text"],
        )
        return "answer-mismatch"

    async def _rendered(self, body: Body, headers: Headers) -> list[int]:
        """The upstream's tokens of a chat: by its render route where it is enabled, else by /tokenize."""
        if self._renders:
            try:
                asked = {name: value for name, value in body.items() if not name.startswith("stream")}
                return _ids((await self._ask("/v1/chat/completions/render", asked, headers)).get("token_ids"))
            except _CannotAskError as error:
                if error.for_now:
                    raise
                # Else it is this chat that it does not take, perhaps because it is too long unpruned.
                self._renders = error.status not in _NO_ROUTE
        names = ("model", "messages", "tools", "chat_template_kwargs")
        return await self._tokenize({name: body[name] for name in names if body.get(name)}, headers)

    async def _read(self, body: Body, headers: Headers) -> list[int]:
        """The upstream's tokens of a prompt string."""
        names = ("model", "prompt", "add_special_tokens")
        return await self._tokenize({name: body[name] for name in names if name in body}, headers)

    async def _tokenize(self, question: Body, headers: Headers) -> list[int]:
        return _ids((await self._ask("/tokenize", question, headers)).get("tokens"))

    async def _ask(self, path: str, question: Body, headers: Headers) -> dict[str, Any]:
        body = json.dumps(question).encode()
        try:
            status, raw = await asgi_call(self._app, "POST", path, headers, _TIMEOUT_S, body)
            answer = json.loads(raw) if status == 200 else None
        except TimeoutError as error:
            raise _CannotAskError("unreachable", f"{path} did not answer in time", for_now=True) from error
        except (ValueError, RecursionError) as error:
            raise _CannotAskError("no-ids", f"{path} does not answer with JSON") from error
        if status in (401, 429) or (status >= 500 and status != 501):
            raise _CannotAskError("unreachable", f"{path} answered {status}", for_now=True)
        if not isinstance(answer, dict):
            reason = "no-tokenize" if path == "/tokenize" else "no-ids"
            raise _CannotAskError(reason, f"{path} answered {status}", status=status)
        return answer


class _CannotAskError(Exception):
    """The upstream does not say; ``reason`` is a short name, ``for_now``: ask again soon."""

    def __init__(self, reason: str, message: str, *, for_now: bool = False, status: int = 0) -> None:
        super().__init__(message)
        self.reason, self.for_now, self.status = reason, for_now, status


def _ids(value: Any) -> list[int]:
    if not isinstance(value, list) or not all(isinstance(item, int) for item in value):
        raise _CannotAskError("no-ids", "it gives no list of token ids")
    return value
