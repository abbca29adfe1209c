"""The embedded server: OpenAI's chat and text completions on the built-in engine, as a raw ASGI app.

It is the upstream of a first try and the place of in-model pruning; it answers in vLLM's shapes, so that what
works against it works against vLLM.
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

from tokenprune.engine.engine import ContextLengthError, Engine, Step
from tokenprune.engine.prompt import check_ids
from tokenprune.engine.runner import EngineRunner
from tokenprune.engine.sampling import SamplingError, SamplingParams
from tokenprune.tokens import sanitize
from tokenprune_server.embedded_types import (
    ApiError,
    ChatRequest,
    CompletionRequest,
    GenerationRequest,
    Shape,
    flatten_messages,
    parse,
    template_options,
    usage,
)
from tokenprune_server.types import Receive, Scope, Send

logger = logging.getLogger(__name__)

_MAX_BODY_BYTES = 64 * 2**20
_ROUTES = {
    "/health": "GET",
    "/metrics": "GET",
    "/v1/models": "GET",
    "/v1/chat/completions": "POST",
    "/v1/completions": "POST",
}


class ClientGoneError(Exception):
    """The client closed its connection; nothing can be answered."""


class EmbeddedApp:
    """ASGI app over one engine. A request whose client disconnects frees the engine, queued or running."""

    def __init__(self, engine: Engine, served_names: list[str]) -> None:
        """Serve ``engine`` under ``served_names``; answers carry the first one."""
        self.engine = engine
        self.names = served_names
        self.runner = EngineRunner(engine)
        self._created = int(time.time())
        self._totals = {"prompt_tokens": 0, "generation_tokens": 0}
        self._finished = {"stop": 0, "length": 0, "abort": 0}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        if scope["type"] != "http":
            raise RuntimeError(f"cannot serve scope type {scope['type']!r}")
        headers = {name.lower(): value for name, value in scope["headers"]}
        given = headers.get(b"x-request-id", b"").decode("latin-1")
        reply = _Reply(send, given)
        try:
            await self._route(scope, receive, reply, given or uuid.uuid4().hex)
        except ClientGoneError:
            return
        except ApiError as error:
            await reply.fail(error)
        except ContextLengthError as error:
            await reply.fail(ApiError(400, str(error), "input_tokens"))
        except SamplingError as error:
            await reply.fail(ApiError(400, str(error), error.parameter))
        except Exception as error:
            # The last line of defence: a client must get an answer and the log the reason.
            logger.exception("request %s failed", given)
            await reply.fail(ApiError(500, f"The engine failed: {type(error).__name__}: {error}"))

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await send({"type": "lifespan.startup.complete"})
            else:
                self.runner.close()
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def _route(self, scope: Scope, receive: Receive, reply: _Reply, request_id: str) -> None:
        path: str = scope["path"]
        method = _ROUTES.get(path)
        if method is None:
            raise ApiError(404, f"The path {path} does not exist here.")
        if scope["method"] != method and not (method == "GET" and scope["method"] == "HEAD"):
            raise ApiError(405, f"{path} takes {method} only.")
        if path == "/health":
            await reply.send(200, b"", "text/plain")
        elif path == "/metrics":
            await reply.send(200, self._metrics().encode(), "text/plain; version=0.0.4; charset=utf-8")
        elif path == "/v1/models":
            await reply.json(200, {"object": "list", "data": [self._model_card(name) for name in self.names]})
        elif path == "/v1/chat/completions":
            await self._chat(await _read_body(receive), receive, reply, request_id)
        else:
            await self._completions(await _read_body(receive), receive, reply, request_id)

    def _model_card(self, name: str) -> dict[str, Any]:
        return {
            "id": name,
            "object": "model",
            "created": self._created,
            "owned_by": "tokenprune",
            "root": self.engine.lm.name,
            "parent": None,
            "max_model_len": self.engine.max_model_len,
        }

    async def _chat(self, body: bytes, receive: Receive, reply: _Reply, request_id: str) -> None:
        request = parse(ChatRequest, body)
        assert isinstance(request, ChatRequest)
        name = self._check_model(request)
        limit = request.max_tokens if request.max_completion_tokens is None else request.max_completion_tokens
        params = request.sampling(limit)
        # Templates and tokenizers take whole seconds on very long prompts.
        prompt = await asyncio.to_thread(self._render, request)
        shape = Shape.new("chat", request_id, name, bool(request.return_token_ids))
        await self._answer(request, [prompt], params, shape, receive, reply)

    async def _completions(self, body: bytes, receive: Receive, reply: _Reply, request_id: str) -> None:
        request = parse(CompletionRequest, body)
        assert isinstance(request, CompletionRequest)
        name = self._check_model(request)
        params = request.sampling(request.max_tokens)
        prompts = await asyncio.to_thread(self._tokenise, request)
        shape = Shape.new("text", request_id, name, bool(request.return_token_ids))
        await self._answer(request, prompts, params, shape, receive, reply)

    def _check_model(self, request: GenerationRequest) -> str:
        if request.model is None:
            return self.names[0]
        if request.model not in self.names:
            known = ", ".join(self.names)
            raise ApiError(404, f"The model `{request.model}` does not exist. Valid names: {known}.", "model")
        return request.model

    def _render(self, request: ChatRequest) -> list[int]:
        from jinja2 import TemplateError

        messages = flatten_messages(request.messages)
        options: dict[str, Any] = {
            "add_generation_prompt": request.add_generation_prompt and not request.continue_final_message,
            "continue_final_message": request.continue_final_message,
            **template_options(request.chat_template_kwargs),
        }
        options.update(tokenize=False)
        tokenizer = self.engine.lm.tokenizer
        try:
            text = tokenizer.apply_chat_template(
                messages, tools=request.tools, documents=request.documents, **options
            )
        except (TemplateError, ValueError, TypeError, KeyError) as error:
            raise ApiError(400, f"The messages do not fit the chat template: {error}", "messages") from error
        # The template writes the special tokens itself; `verbose` would warn of what is refused later.
        ids: list[int] = tokenizer(sanitize(text), add_special_tokens=False, verbose=False)["input_ids"]
        check_ids(self.engine.decoder, ids)
        return ids

    def _tokenise(self, request: CompletionRequest) -> list[list[int]]:
        prompt, special = request.prompt, request.add_special_tokens
        if not prompt:
            raise ApiError(400, "The prompt is empty.", "prompt")
        if isinstance(prompt, list) and isinstance(prompt[0], int):
            return [[item for item in prompt if isinstance(item, int)]]
        parts: list[Any] = [prompt] if isinstance(prompt, str) else list(prompt)
        return [self._ids_of(part, special) if isinstance(part, str) else part for part in parts]

    def _ids_of(self, text: str, special: bool) -> list[int]:
        tokenizer = self.engine.lm.tokenizer
        ids: list[int] = tokenizer(sanitize(text), add_special_tokens=special, verbose=False)["input_ids"]
        check_ids(self.engine.decoder, ids)
        return ids

    async def _answer(
        self,
        request: GenerationRequest,
        prompts: list[list[int]],
        params: SamplingParams,
        shape: Shape,
        receive: Receive,
        reply: _Reply,
    ) -> None:
        for prompt in prompts:
            self.engine.output_limit(prompt, params.max_tokens)
        cancel = threading.Event()
        watcher = asyncio.create_task(self._watch(receive, cancel))
        self._totals["prompt_tokens"] += sum(map(len, prompts))
        try:
            if request.stream:
                await self._stream(prompts, params, shape, cancel, reply, request.include_usage)
            else:
                await self._whole(prompts, params, shape, cancel, reply)
        finally:
            self.runner.cancel(cancel)
            watcher.cancel()

    async def _watch(self, receive: Receive, cancel: threading.Event) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.runner.cancel(cancel)

    async def _steps(
        self, prompt: list[int], params: SamplingParams, cancel: threading.Event
    ) -> AsyncIterator[Step]:
        """Yield the steps of a prompt; raises ClientGoneError when they end before a finish reason."""
        finish = None
        try:
            async for step in self.runner.generate(prompt, params, cancel):
                finish = step.finish_reason
                self._totals["generation_tokens"] += 1
                yield step
        finally:
            self._finished[finish or "abort"] += 1
        if finish is None and self.runner.closed:
            raise ApiError(503, "The server is shutting down.")
        if finish is None:
            raise ClientGoneError

    async def _whole(
        self,
        prompts: list[list[int]],
        params: SamplingParams,
        shape: Shape,
        cancel: threading.Event,
        reply: _Reply,
    ) -> None:
        choices = []
        generated = 0
        for index, prompt in enumerate(prompts):
            steps = [step async for step in self._steps(prompt, params, cancel)]
            generated += len(steps)
            text = "".join(step.text_delta for step in steps)
            last, ids = steps[-1], [step.token_id for step in steps]
            choices.append(shape.choice(index, text, last.finish_reason, last.stop_reason, ids, prompt))
        used = usage(sum(map(len, prompts)), generated)
        await reply.json(200, shape.whole(choices, used, prompts[0]))

    async def _stream(
        self,
        prompts: list[list[int]],
        params: SamplingParams,
        shape: Shape,
        cancel: threading.Event,
        reply: _Reply,
        include_usage: bool,
    ) -> None:
        generated = 0
        for index, prompt in enumerate(prompts):
            first = True
            held: list[int] = []
            async for step in self._steps(prompt, params, cancel):
                generated += 1
                if first and shape.kind == "chat":
                    await reply.event(shape.role_chunk(prompt))
                held.append(step.token_id)
                if step.text_delta or step.finish_reason or shape.token_ids:
                    with_prompt = prompt if first and shape.token_ids else None
                    await reply.event(
                        shape.chunk(
                            index, step.text_delta, step.finish_reason, step.stop_reason, held, with_prompt
                        )
                    )
                    held = []
                first = False
        if include_usage:
            await reply.event(shape.usage_chunk(usage(sum(map(len, prompts)), generated)))
        await reply.end_events()

    def _metrics(self) -> str:
        label = f'engine="0",model_name={json.dumps(self.names[0])}'
        lines = []
        for name, value in (("running", self.runner.running), ("waiting", self.runner.waiting)):
            lines.append(f"# HELP vllm:num_requests_{name} Number of requests {name}.")
            lines.append(f"# TYPE vllm:num_requests_{name} gauge")
            lines.append(f"vllm:num_requests_{name}{{{label}}} {float(value)}")
        for name, total in self._totals.items():
            lines.append(f"# HELP vllm:{name}_total Number of {name.replace('_', ' ')} processed.")
            lines.append(f"# TYPE vllm:{name}_total counter")
            lines.append(f"vllm:{name}_total{{{label}}} {float(total)}")
        lines.append("# HELP vllm:request_success_total Number of requests by how they ended.")
        lines.append("# TYPE vllm:request_success_total counter")
        for reason, count in self._finished.items():
            lines.append(f'vllm:request_success_total{{{label},finished_reason="{reason}"}} {float(count)}')
        return "\n".join(lines) + "\n"


class _Reply:
    """Sends one answer, and knows whether it has begun."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self._headers = [(b"x-request-id", request_id.encode("latin-1"))] if request_id else []
        self._streaming = False

    async def json(self, status: int, value: dict[str, Any]) -> None:
        await self.send(status, _dump(value), "application/json")

    async def send(self, status: int, body: bytes, content_type: str) -> None:
        await self._start(status, content_type, [(b"content-length", str(len(body)).encode())])
        await self._send({"type": "http.response.body", "body": body})

    async def event(self, value: dict[str, Any]) -> None:
        if not self._streaming:
            await self._start(200, "text/event-stream; charset=utf-8", [(b"cache-control", b"no-cache")])
            self._streaming = True
        body = b"data: " + _dump(value) + b"\n\n"
        await self._send({"type": "http.response.body", "body": body, "more_body": True})

    async def end_events(self) -> None:
        await self._send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})

    async def fail(self, error: ApiError) -> None:
        """Answer with the error; a stream that has begun carries it as its last event, as vLLM does."""
        if self._streaming:
            await self.event(error.body())
            await self.end_events()
        else:
            await self.json(error.status, error.body())

    async def _start(self, status: int, content_type: str, extra: list[tuple[bytes, bytes]]) -> None:
        headers = [(b"content-type", content_type.encode()), *extra, *self._headers]
        await self._send({"type": "http.response.start", "status": status, "headers": headers})


def _dump(value: dict[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


async def _read_body(receive: Receive) -> bytes:
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        part = message.get("body", b"")
        size += len(part)
        if size > _MAX_BODY_BYTES:
            raise ApiError(413, f"The request body is larger than {_MAX_BODY_BYTES} bytes.")
        parts.append(part)
        if not message.get("more_body"):
            return b"".join(parts)


def create_embedded_app(
    model: str = "smollm2-135m", served_name: str | None = None, max_model_len: int | None = None
) -> EmbeddedApp:
    """Load ``model`` (a named model, a folder or a hub id), warm it up and return the app that serves it.

    Args:
        model: What to load.
        served_name: The name clients use; ``model`` itself by default.
        max_model_len: Tokens of prompt and output together; what the model can read by default.

    Raises:
        ModelError: The model cannot be found, fetched or loaded.
        SamplingError: ``max_model_len`` is out of range.
    """
    engine = Engine(model, max_model_len=max_model_len)
    engine.warm_up()
    return EmbeddedApp(engine, [served_name or model])
