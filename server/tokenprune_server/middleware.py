"""``PruneMiddleware``: rewrites prunable requests on their way in; the only place that prunes."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import TypeVar

from tokenprune.config import Config
from tokenprune.errors import TokenPruneError
from tokenprune_server.answer import holds_token
from tokenprune_server.body import ClientGone, Replay, body_message, header, read_body, rewritten_headers
from tokenprune_server.decide import PRUNED, Facts, decide, failed, skipped
from tokenprune_server.errors import RequestError, send_error
from tokenprune_server.exchange import Exchange
from tokenprune_server.json_body import serialise
from tokenprune_server.options import PREFIX, has_option_headers, without_option_headers
from tokenprune_server.paths import route_path
from tokenprune_server.protocols import BY_ROUTE, Protocol
from tokenprune_server.protocols.base import Body
from tokenprune_server.reading import read_request
from tokenprune_server.request import Outcome, Pictures, Request, plain_body
from tokenprune_server.runtime import Runtime
from tokenprune_server.settings import ServerSettings
from tokenprune_server.tokens.sending import Sending
from tokenprune_server.tokens.stage import TokenStage, owes_budget
from tokenprune_server.types import ASGIApp, Headers, Message, Receive, Scope, Send
from tokenprune_server.upstream_info import UpstreamInfo
from tokenprune_server.vision.settings import NOT_SET_UP
from tokenprune_server.vision.stage import VisionStage, picture_headers
from tokenprune_server.vision.unread import Unread, check_unread
from tokenprune_server.watch import done_in_time

log = logging.getLogger("tokenprune.server")

T = TypeVar("T")

_COUNTING_S = 0.5  # to count a prompt after the deadline
_ASKING_S = 8.0  # the upstream for the tokens of a prompt
_TOO_LONG = (
    "the prompt has about {prompt} tokens, the model's context holds {limit}, and pruning failed ({why}): "
    "send less context, ask for fewer output tokens, or give tokenprune.max_tokens or another pipeline"
)


@dataclass(frozen=True, slots=True)
class _Result:
    """What goes on: the body (None: as it was read), and what the response headers say.

    ``request`` is None for what is not ours to read; ``sending`` is how it goes as token ids.
    """

    outcome: Outcome
    body: bytes | None
    tried: bool
    request: Request | None = None
    sending: Sending | None = None


class RequestFailed(RequestError):
    """Pruning failed, and the original must not go through in place of the pruned request."""

    def __init__(self, message: str, status: int, outcome: Outcome) -> None:
        """Keep the outcome for the response headers."""
        super().__init__(message, status=status)
        self.outcome = outcome


class PruneMiddleware:
    """ASGI middleware around an OpenAI-compatible app.

    Requests to prunable routes get their documents pruned and their answers ``x-tokenprune-*`` headers;
    everything else goes to ``app`` untouched. With ``app`` alone it configures itself from the file that
    the environment variable ``TOKENPRUNE_CONFIG`` names, which is how ``vllm --middleware
    tokenprune_server.PruneMiddleware`` makes it.

    Args:
        app: the inner ASGI app, e.g. an `UpstreamApp`.
        config: the library's configuration.
        settings: server settings; those of ``config.server`` and the environment when None.
        runtime: shared state, instead of the two above.
    """

    def __init__(
        self,
        app: ASGIApp,
        config: Config | None = None,
        settings: ServerSettings | None = None,
        *,
        runtime: Runtime | None = None,
    ) -> None:
        if runtime is None:
            runtime = Runtime(config, settings) if config is not None else Runtime.from_env()
        self.app = app
        self.runtime = runtime
        self._settings = runtime.settings
        self._min_body = 3 * self._settings.min_document_tokens
        self._upstream = UpstreamInfo(
            app,
            self._settings.max_model_len,
            self._settings.model_len_ttl_s,
            runtime.gate.costs.upstream_caches if runtime.gate.on else None,
        )
        self._tokens = self._token_stage()
        self._vision = self._vision_stage()

    def _token_stage(self) -> TokenStage | None:
        """What chooses prompt tokens, where it is set up."""
        runtime, settings = self.runtime, self._settings.tokens
        if settings is None or runtime.selector is None:
            return None
        selector, load, rules = runtime.selector, runtime.load_tokens, runtime.rewriter.rules
        shared = runtime.gate, runtime.receipts, runtime.pool
        return TokenStage(self.app, settings, selector, load, rules, *shared)

    def _vision_stage(self) -> VisionStage | None:
        """What prunes pictures, where it is set up."""
        runtime, settings = self.runtime, self._settings.vision
        if settings is None or runtime.reducer is None:
            return None
        pools = runtime.lookups, runtime.encoders
        return VisionStage(self.app, settings, runtime.reducer, runtime.receipts, *pools)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope."""
        if scope["type"] == "http" and scope["method"] == "POST":
            protocol = BY_ROUTE.get(route_path(scope).rstrip("/"))
            if protocol is not None:
                await self._serve(protocol, scope, receive, send)
                return
        elif scope["type"] == "lifespan":
            await self._lifespan(scope, receive, send)
            return
        await self.app(scope, receive, send)

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.runtime.start()
        try:
            await self.app(scope, receive, send)
        finally:
            self.runtime.shutdown()

    async def _serve(self, protocol: Protocol, scope: Scope, receive: Receive, send: Send) -> None:
        arrived = time.perf_counter()
        settings = self._settings
        try:
            raw, messages = await read_body(receive, settings.max_body_bytes)
        except ClientGone:
            return
        started = time.perf_counter()
        headers: Headers = scope["headers"]
        replay = Replay(messages, receive)
        try:
            if messages:
                result = self._unread(protocol, "too-large")
            else:
                result, replay = await self._consider(protocol, headers, raw, receive)
        except ClientGone:
            return
        except RequestError as error:
            outcome = error.outcome if isinstance(error, RequestFailed) else Outcome(failed("bad-request"))
            answer = self._answering(send, outcome, arrived, started, tried=isinstance(error, RequestFailed))
            await send_error(answer, error.status, error.message, param=error.param)
            return
        if has_option_headers(headers):
            scope = {**scope, "headers": without_option_headers(headers)}
        if result.body is not None:
            scope = {**scope, "headers": rewritten_headers(scope["headers"], len(result.body))}
        answer = self._answering(
            send, result.outcome, arrived, started, tried=result.tried, sending=result.sending
        )
        try:
            if messages and result.outcome.pictures is not None:
                limit = f"where its body has more than {settings.max_body_bytes} bytes"
                unread = Unread(replay, answer, f"{limit} (setting server.max_body_bytes)", 413)
                await self._forward(result, scope, unread.receive, unread.send)
                await unread.finish()
            else:
                await self._forward(result, scope, replay, answer)
        finally:
            replay.close()

    async def _forward(self, result: _Result, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the request on; with the gate on, its answer is watched."""
        gate, request = self.runtime.gate, result.request
        app = self.app if result.sending is None else result.sending
        async with contextlib.AsyncExitStack() as stack:
            if self._vision is not None and request is not None:
                send = self._vision.watching(request, result.outcome, send)
                await stack.enter_async_context(self._vision.passing(result.outcome))
            if request is not None and gate.on:
                exchange = Exchange(gate, self.runtime.metrics, request, result.outcome)
                send = stack.enter_context(exchange).passing(send)
            await app(scope, receive, send)

    async def _consider(
        self, protocol: Protocol, headers: Headers, raw: bytes, receive: Receive
    ) -> tuple[_Result, Replay]:
        """Decide and prune; the result with a ``receive`` that gives the body to send on."""
        authorized = self.runtime.authorized(headers)
        read = read_request(headers, raw, self._settings.max_body_bytes) if authorized else None
        if read is None:
            reason = "encoding" if authorized else "unauthorized"
            if self._vision is not None and self._vision.serves(protocol):
                check_unread(raw)
            return self._unread(protocol, reason), Replay([body_message(raw)], receive)
        options, pool = read.options, self.runtime.pool
        if self._vision is None and options.vision is not None and options.vision.enabled is not False:
            raise RequestError(NOT_SET_UP, param="tokenprune.vision")
        request = Request(protocol, read.body, options, read.size, None)
        pictures = 0 if self._vision is None else self._vision.size(request)
        facts = Facts(
            enabled=self._settings.enabled if options.enabled is None else options.enabled,
            body_bytes=read.size - pictures,
            min_body_bytes=None if options.contexts or options.name else self._min_body,
        )
        decision = decide(facts)
        if decision == PRUNED:
            authorization = [(name, value) for name, value in headers if name == b"authorization"]
            model_len = await self._upstream.max_model_len(read.body.get("model"), authorization)
            request = replace(request, model_len=model_len, ask=self._asking(authorization))
            # Asked last, with no await between it and the submission, so that the limit holds.
            decision = decide(replace(facts, waiting=pool.waiting, max_waiting=pool.max_waiting))
        looking = self._vision is not None and (
            decision == PRUNED or self._vision.has_work(request, decision)
        )
        overloaded = decision == skipped("overloaded")
        if decision != PRUNED and not overloaded and not looking:
            new = serialise(plain_body(request)) if read.has_options else None
            message = body_message(raw if new is None else new)
            return _Result(Outcome(decision), new, False, request), Replay([message], receive)
        pending = asyncio.ensure_future(receive())
        try:
            rescued = (await self._rescue(request, pending))[1] if overloaded else None
            outcome, sending = rescued or Outcome(decision), None
            if decision == PRUNED:
                later = self._tokens is not None and self._tokens.holds_budgets
                outcome = await self._prune(request, pending, later=later)
            texts = decision == PRUNED and outcome.receipt is not None and options.name is None
            if self._tokens is not None and decision == PRUNED:
                outcome, sending = await self._tokens(request, outcome, headers, pending)
                if owes_budget(outcome):
                    pruned = await self._prune(request, pending, owed=True)
                    outcome = replace(pruned, token_stage=outcome.token_stage)
            if self._vision is not None and looking:
                outcome = await self._vision(request, outcome, headers, pending)
            new = self._rewritten(request, outcome, read.has_options)
        except BaseException:
            pending.cancel()
            raise
        self.runtime.note_works(outcome, texts=texts)
        tried = not outcome.decision.startswith("skipped:")
        message = body_message(raw if new is None else new)
        return _Result(outcome, new, tried, request, sending), Replay([message], receive, pending)

    def _asking(self, authorization: Headers) -> Callable[[Body], int | None]:
        """How a thread asks the upstream for the tokens of a body."""
        loop, asking = asyncio.get_running_loop(), set[asyncio.Task[None]]()

        def ask(body: Body) -> int | None:
            answer: Future[int | None] = Future()

            async def count() -> None:
                try:
                    answer.set_result(await self._upstream.count(body, authorization))
                finally:
                    if not answer.done():
                        answer.set_result(None)

            with contextlib.suppress(RuntimeError, TimeoutError):  # a loop that has ended, or ends meanwhile
                loop.call_soon_threadsafe(lambda: asking.add(loop.create_task(count())))
                return answer.result(_ASKING_S)
            return None

        return ask

    def _unread(self, protocol: Protocol, reason: str) -> _Result:
        """A body that was not read goes as it came."""
        may = self._vision is not None and self._vision.serves(protocol)
        return _Result(
            Outcome(skipped(reason), pictures=Pictures(skipped(reason)) if may else None), None, False
        )

    def _rewritten(self, request: Request, outcome: Outcome, has_options: bool) -> bytes | None:
        """The body to send on, None for the original; raises RequestFailed when there is none."""
        pictures = outcome.pictures
        if pictures is not None and pictures.stage.startswith("failed:") and outcome.body is not None:
            self._refuse_if_closed(outcome)
        if outcome.decision.startswith("failed:"):
            self._refuse_if_needed(request, outcome)
        if outcome.body is not None:
            return serialise(outcome.body)
        return serialise(plain_body(request)) if has_options else None

    async def _prune(
        self, request: Request, watching: "asyncio.Task[Message]", *, later: bool = False, owed: bool = False
    ) -> Outcome:
        """Prune in a thread while watching the client and the clock; the rest as for the `Rewriter`."""
        work = self.runtime.pool.submit(lambda: self.runtime.rewriter(request, later=later, owed=owed))
        pruned = await _within(work, watching, self._settings.timeout_s)
        return pruned or await self._late(request, watching)

    async def _late(self, request: Request, watching: "asyncio.Task[Message]") -> Outcome:
        log.warning("pruning took longer than %s s", self._settings.timeout_s)
        detail = f"it took longer than {self._settings.timeout_s:g} s"
        too_long, rescued = await self._rescue(request, watching)
        return rescued or Outcome(failed("timeout"), too_long=too_long, detail=detail)

    async def _rescue(
        self, request: Request, watching: "asyncio.Task[Message]"
    ) -> tuple[int | None, Outcome | None]:
        """Cut a prompt that the model would refuse, where no pruning thread is to be had for it.

        Returns:
            Its tokens if it is too long, and how it goes if it could be cut.
        """
        pool, rewriter = self.runtime.rescues, self.runtime.rewriter
        room = rewriter.room(request)
        too_long = room.certainly_too_long()
        if too_long is None and request.model_len is not None and pool.waiting < pool.max_waiting:
            # Counting is fast beside pruning, but has no time of its own: a prompt that takes longer goes to
            # the upstream, which counts it as well.
            try:
                too_long = await _within(pool.submit(lambda: room.too_long), watching, _COUNTING_S)
            except TokenPruneError as error:  # the tokenizer cannot be had
                log.warning("a prompt could not be counted: %s", error)
        if too_long is None or pool.waiting >= pool.max_waiting:
            return too_long, None
        # The original would be refused, so it is worth some time.
        work = pool.submit(lambda: rewriter.rescue(request))
        return too_long, await _within(work, watching, self._settings.timeout_s)

    def _refuse_if_needed(self, request: Request, outcome: Outcome) -> None:
        """Raise unless the original may go through in place of the pruned request."""
        if outcome.too_long is not None:
            raise RequestFailed(
                _TOO_LONG.format(prompt=outcome.too_long, limit=request.model_len, why=outcome.detail),
                400,
                outcome,
            )
        self._refuse_if_closed(outcome)

    def _refuse_if_closed(self, outcome: Outcome) -> None:
        if self._settings.fail == "closed":
            message = f"pruning failed, and this server is set to refuse the request then: {outcome.detail}"
            raise RequestFailed(message, 503, outcome)

    def _answering(
        self,
        send: Send,
        outcome: Outcome,
        arrived: float,
        started: float,
        *,
        tried: bool,
        sending: Sending | None = None,
    ) -> Send:
        """A ``send`` that adds our headers to the answer and measures the time to its first byte."""
        metrics = self.runtime.metrics
        seconds = time.perf_counter() - started
        metrics.decided(outcome.decision, seconds, tried)
        if outcome.pictures is not None:
            metrics.pictures(outcome.pictures)
        if outcome.receipt is not None:
            metrics.pruned(outcome.tokens_before, outcome.tokens_after, self.runtime.receipts.bytes)
        ours: Headers = [
            (b"x-tokenprune-decision", outcome.decision.encode()),
            (b"x-tokenprune-tokens-before", b"%d" % outcome.tokens_before),
            (b"x-tokenprune-tokens-after", b"%d" % outcome.tokens_after),
            (b"x-tokenprune-ms", b"%.2f" % (1000 * seconds)),
        ]
        if outcome.receipt is not None:
            ours.append((b"x-tokenprune-receipt", outcome.receipt.encode()))
        ours += picture_headers(outcome.pictures)
        if outcome.steps:
            spent = ", ".join(f"tp-{step};dur={1000 * s:.3f}" for step, s in outcome.steps.items())
            ours.append((b"server-timing", spent.encode()))
        stage = outcome.token_stage

        def settled(how: str) -> None:
            nonlocal stage
            stage = how

        if sending is not None:
            sending.settled = settled
        waiting, streamed, forwarded = True, False, time.perf_counter()
        stored = self.runtime.receipts.get(outcome.receipt) if outcome.receipt and outcome.steps else None

        async def answer(message: Message) -> None:
            nonlocal waiting, streamed, stored
            if waiting:
                if message["type"] == "http.response.start":
                    # An upstream that prunes as well has headers of the same names: this one's word counts.
                    theirs = message.get("headers", ())
                    streamed = header(theirs, b"content-type").startswith(b"text/event-stream")
                    message["headers"] = [h for h in theirs if not h[0].lower().startswith(PREFIX)] + ours
                    if stage:
                        metrics.token_stage(stage)
                        message["headers"].append((b"x-tokenprune-token-stage", stage.encode()))
                elif message.get("body"):
                    waiting = False
                    metrics.first_byte(outcome.decision, time.perf_counter() - arrived)
            piece = message.get("body", b"")
            if stored is not None and (holds_token(piece) if streamed else piece):
                stored.timing["upstream"] = time.perf_counter() - forwarded
                stored = None
            await send(message)

        return answer


async def _within(work: "asyncio.Future[T]", watching: "asyncio.Task[Message]", seconds: float) -> T | None:
    """What a call gives; None, and it is called off, when it takes longer or nobody waits any more.

    Raises:
        ClientGone: the client left.
    """
    try:
        return work.result() if await done_in_time(work, watching, seconds) else None
    finally:
        work.cancel()
