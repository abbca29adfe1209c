"""The admin app: pruning over HTTP, receipts, health, metrics and the playground."""

import asyncio
import logging
import re
from collections.abc import Callable
from functools import lru_cache
from importlib import resources
from typing import Annotated, Any, Literal, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

import tokenprune as tp
from tokenprune.config import with_output
from tokenprune.errors import MissingExtraError, ModelError, TokenPruneError
from tokenprune.receipt import PruneResult
from tokenprune.validation import STRINGS_ARE_TEXTS, fault
from tokenprune_server.asgi_call import asgi_call
from tokenprune_server.body import ClientGone
from tokenprune_server.errors import RequestError, error_dict
from tokenprune_server.json_body import serialise
from tokenprune_server.paths import route_path
from tokenprune_server.pool import PrunePool
from tokenprune_server.runtime import Runtime
from tokenprune_server.types import ASGIApp, Receive, Scope, Send
from tokenprune_server.vision.settings import NOT_SET_UP
from tokenprune_server.vision.viewer import PictureRequest
from tokenprune_server.watch import done_in_time

log = logging.getLogger("tokenprune.server")

PATHS = frozenset(
    {
        "/v1/prune",
        "/v1/prune/picture",
        "/v1/cost-model",
        "/healthz",
        "/readyz",
        "/metrics",
        "/playground",
        "/playground/names",
    }
)
PREFIXES = ("/v1/receipts/",)
_OPEN_PATHS = frozenset({"/healthz", "/readyz", "/metrics", "/playground", "/playground/names"})
_READY_TIMEOUT_S = 5.0
_CLIENT_GONE = 499  # nobody reads it; as nginx logs it
_PART = re.compile(r"\{\{([a-z]+\.(?:css|js))\}\}\n?")
# Errors that are not the caller's fault; every other error of ours is about what the request says.
_OUR_FAULT = (ModelError, MissingExtraError)


T = TypeVar("T")


class PruneDocument(BaseModel):
    """One document of a ``/v1/prune`` request."""

    model_config = ConfigDict(extra="forbid")

    text: str
    kind: Literal["html", "text", "triples", "examples", "chat"] | None = None
    id: str | None = None
    title: str | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)


class PruneRequest(BaseModel):
    """Body of ``/v1/prune``; ``pipeline`` and ``method`` are two names of the same thing.

    Without ``query``, the pipeline must be one that needs none. ``threshold`` and ``top_k`` are options of a
    method, and stand beside its name; other options (some name models) are the server's to set.
    """

    model_config = ConfigDict(extra="forbid")

    query: str = ""
    documents: Annotated[list[PruneDocument], STRINGS_ARE_TEXTS]
    pipeline: str | None = None
    method: str | None = None
    max_tokens: int | None = Field(None, strict=True)
    keep_ratio: float | None = Field(None, strict=True)
    threshold: float | None = Field(None, strict=True, allow_inf_nan=False)
    top_k: int | None = Field(None, strict=True)
    output: Literal["same", "html", "text", "markdown"] | None = None


class _CheckKey:
    """ASGI middleware: whoever has no valid key gets no further. Starlette's own kind hides who has left."""

    def __init__(self, app: ASGIApp, runtime: Runtime) -> None:
        self._app, self._runtime = app, runtime

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope."""
        closed = scope["type"] == "http" and route_path(scope) not in _OPEN_PATHS
        if closed and not self._runtime.authorized(scope["headers"]):
            refusal = _error(401, "a valid API key is needed: Authorization: Bearer KEY")
            await refusal(scope, receive, send)
            return
        await self._app(scope, receive, send)


class _Json(JSONResponse):
    """What holds texts of a request: they may have halves of characters, which UTF-8 cannot hold."""

    def render(self, content: Any) -> bytes:
        """Return the bytes."""
        return serialise(content)


def create_admin_app(runtime: Runtime, inner: ASGIApp) -> FastAPI:
    """The admin app for a server whose upstream is ``inner``."""
    app = FastAPI(title="tokenprune", docs_url=None, redoc_url=None, openapi_url=None)
    _add_errors(app)

    app.add_middleware(_CheckKey, runtime=runtime)

    @app.post("/v1/prune")
    async def prune(request: PruneRequest, http: Request) -> Response:
        limit = runtime.settings.timeout_s
        result = await _in_time(http, runtime.pool, lambda: _prune(runtime, request), limit)
        receipt = runtime.receipts.put(request.query, [result])
        content = await asyncio.to_thread(result.to_dict)
        return _Json(content, headers={"x-tokenprune-receipt": receipt})

    @app.post("/v1/prune/picture")
    async def picture(request: PictureRequest, http: Request) -> Response:
        vision, viewer = runtime.settings.vision, runtime.viewer
        if vision is None or viewer is None:
            raise RequestError(NOT_SET_UP)
        return JSONResponse(await _in_time(http, runtime.encoders, lambda: viewer(request), vision.timeout_s))

    @app.get("/v1/receipts/{receipt_id}")
    async def receipt(receipt_id: str) -> Response:
        stored = runtime.receipts.get(receipt_id)
        if stored is None:
            return _error(404, f"no receipt {receipt_id!r}: it never was, or newer ones have displaced it")
        return _Json(await asyncio.to_thread(stored.to_dict))

    @app.get("/v1/cost-model")
    async def cost_model() -> Response:
        return JSONResponse(await asyncio.to_thread(runtime.gate.to_dict))

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/readyz")
    async def readyz(request: Request) -> Response:
        if runtime.warming_up:
            return JSONResponse({"status": "not ready", "reason": "loading the pruning models"}, 503)
        if runtime.broken is not None:
            return JSONResponse({"status": "not ready", "reason": runtime.broken}, 503)
        authorization = [(k, v) for k, v in request.scope["headers"] if k == b"authorization"]
        try:
            status, _ = await asgi_call(inner, "GET", "/v1/models", authorization, _READY_TIMEOUT_S)
        except TimeoutError:
            status = 504
        if status == 0 or status >= 500:
            return JSONResponse({"status": "not ready", "upstream": status}, 503)
        return JSONResponse({"status": "ready", "upstream": status})

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(runtime.metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/playground")
    async def playground() -> HTMLResponse:
        return HTMLResponse(_page())

    @app.get("/playground/names")
    async def names() -> dict[str, Any]:
        pruners = [pruner.name for pruner in tp.list_pruners()]
        pictures = None if runtime.viewer is None else runtime.viewer.describe()
        return {"pipelines": list(runtime.config.pipelines), "methods": pruners, "pictures": pictures}

    return app


async def _in_time(http: Request, pool: PrunePool, work: Callable[[], T], limit: float) -> T:
    """What ``work`` gives in a thread of the pool, within ``limit`` seconds.

    Raises:
        RequestError: it took longer, or too many requests wait.
        ClientGone: the client left.
    """
    if pool.waiting >= pool.max_waiting:
        raise RequestError("all pruning threads are busy and the queue is full: try again later", status=503)
    future = pool.submit(work)
    watching = asyncio.ensure_future(http.receive())
    try:
        if not await done_in_time(future, watching, limit):
            raise RequestError(f"pruning took longer than {limit:g} s", status=504)
        return future.result()
    finally:
        future.cancel()
        watching.cancel()


def _prune(runtime: Runtime, request: PruneRequest) -> PruneResult:
    if request.pipeline is not None and request.method is not None:
        raise RequestError("give pipeline or method, not both", param="method")
    pipeline = _pipeline(runtime, request)
    documents = [tp.Document(**document.model_dump()) for document in request.documents]
    budget = tp.Budget(max_tokens=request.max_tokens, keep_ratio=request.keep_ratio)
    if request.threshold is not None and not budget.adaptive:
        raise RequestError("give only one of max_tokens, keep_ratio and threshold", param="threshold")
    return pipeline.prune(request.query, documents, None if budget.adaptive else budget)


def _pipeline(runtime: Runtime, request: PruneRequest) -> tp.Pipeline:
    config, named = runtime.config, request.pipeline or request.method
    asked = {"threshold": request.threshold, "top_k": request.top_k}
    options: dict[str, Any] = {option: value for option, value in asked.items() if value is not None}
    if not options:
        return config.build(named or runtime.settings.pipeline, request.output)
    said = " and ".join(options)
    if named is None or named in config.pipelines:
        which = "name one" if named is None else f"{named!r} is a configured pipeline"
        raise RequestError(
            f"{said}: options of a method, such as provence; {which}", param=next(iter(options))
        )
    config.build(named)  # of an unknown name it says which pipelines and methods there are
    pipeline = tp.Pipeline([tp.pruner(named, **options)], tokenizer=config.tokenizer)
    return pipeline if request.output is None else with_output(pipeline, request.output)


@lru_cache(maxsize=1)
def _page() -> str:
    """The page with its styles and scripts in it."""
    web = resources.files("tokenprune_server") / "web"
    page = (web / "playground.html").read_text("utf-8")
    return _PART.sub(lambda part: (web / part[1]).read_text("utf-8"), page)


def _error(status: int, message: str, param: str | None = None) -> JSONResponse:
    return JSONResponse(error_dict(message, status, param), status)


def _add_errors(app: FastAPI) -> None:
    """Every error in OpenAI's shape."""

    @app.exception_handler(TokenPruneError)
    async def own(_: Request, error: TokenPruneError) -> Response:
        if isinstance(error, RequestError):
            return _error(error.status, error.message, error.param)
        return _error(503 if isinstance(error, _OUR_FAULT) else 400, str(error))

    @app.exception_handler(ClientGone)
    async def gone(_: Request, __: ClientGone) -> Response:
        return Response(status_code=_CLIENT_GONE)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            why, at = first.get("ctx", {}).get("error", ""), first["loc"][-1]
            return _error(400, f"the request body is not valid JSON: {why} (at character {at})")
        # FastAPI's first step is "body"
        where, message = fault({**first, "loc": first["loc"][1:]})
        asked = PictureRequest if request.url.path.endswith("/picture") else PruneRequest
        known = ", ".join(asked.model_fields)
        return _error(400, f"{where or 'body'}: {message}; fields: {known}", where or None)

    @app.exception_handler(HTTPException)
    async def http(_: Request, error: HTTPException) -> Response:
        return JSONResponse(
            error_dict(str(error.detail), error.status_code), error.status_code, headers=error.headers
        )

    @app.exception_handler(Exception)
    async def unexpected(_: Request, error: Exception) -> Response:
        log.error("admin request failed", exc_info=error)
        return _error(500, f"{type(error).__name__}: {error}")
