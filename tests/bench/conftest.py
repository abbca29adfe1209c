"""A stub model server whose time to first token is a known function of the prompt's length, over real HTTP."""

import asyncio
import io
import json
import threading
from collections import Counter
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
from aiohttp import web
from rich.console import Console

from tokenprune.bench.case import Case
from tokenprune.bench.settings import Settings


class Clock:
    """Time that only the stubs advance: whatever this machine is busy with, the times are exact."""

    def __init__(self):
        self.now, self.reads = 0.0, 0

    def read(self):
        now = self.now
        self.reads += 1
        return now


@pytest.fixture
def clock(monkeypatch):
    """Let the client measure by a `Clock`; for one request at a time."""
    clock = Clock()
    monkeypatch.setattr("tokenprune.bench.client.time", SimpleNamespace(perf_counter=clock.read))
    monkeypatch.setattr("tokenprune.bench.session.time", SimpleNamespace(perf_counter=lambda: clock.now))
    return clock


@dataclass
class Stub:
    """Answers after ``a + b n + c n**2`` ms for n words; as a proxy it first cuts the prompt.

    ``keep`` and ``prune_ms`` (n -> ms) make it a proxy that says what it did in headers; ``faults`` maps a word
    of the prompt to what goes wrong then. With a clock it moves that on instead of sleeping.
    """

    a: float = 2.0
    b: float = 0.0
    c: float = 0.0
    keep: float | None = None
    prune_ms: object = None
    least: int = 0  # words below which the proxy does not prune
    gap_ms: float = 1.0
    clock: Clock | None = None
    answer: tuple = ("Paris", " is", " it")
    usage: bool = True
    headers: bool = True
    names: tuple = ("stub-model",)
    faults: dict = field(default_factory=dict)
    requests: list = field(default_factory=list)
    flight: Counter = field(default_factory=Counter)

    def ttft(self, n):
        """Expected ms for a prompt of n words, without the way over HTTP."""
        prune = 0.0
        if self.keep is not None and n >= self.least:
            prune, n = self.prune_ms(n), round(self.keep * n)
        return prune + self.a + self.b * n + self.c * n * n

    def start(self):
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), daemon=True)
        self._thread.start()
        assert self._ready.wait(5)
        return self

    def stop(self):
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(10)

    async def _main(self):
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        app = web.Application(client_max_size=2**26)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/version", lambda _: web.json_response({"version": "stub 1"}))
        app.router.add_post("/v1/chat/completions", self._chat)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"
        self._ready.set()
        await self._end.wait()
        await runner.cleanup()

    async def _models(self, _):
        return web.json_response({"data": [{"id": name} for name in self.names]})

    async def _chat(self, request):
        body = await request.json()
        self.requests.append(body)
        self.flight["now"] += 1
        self.flight["most"] = max(self.flight["most"], self.flight["now"])
        try:
            return await self._answer(request, body)
        finally:
            self.flight["now"] -= 1

    async def _answer(self, request, body):
        words = " ".join(m["content"] for m in body["messages"]).split()
        fault = next((do for word, do in self.faults.items() if word in words), None)
        if fault in ("busy", "too-long"):
            message = "come again" if fault == "busy" else "This model's maximum context length is 8 tokens."
            return web.json_response({"error": {"message": message}}, status=503 if fault == "busy" else 400)
        if fault == "plain":
            return web.json_response({"choices": []})
        headers, n, prune = {"content-type": "text/event-stream"}, len(words), 0.0
        wish = body.get("tokenprune", {}).get("enabled")
        asked = wish is not False
        if self.keep is not None and not asked:
            headers["x-tokenprune-decision"] = "skipped:disabled"
        elif self.keep is not None:
            decision, after = "skipped:below-min-tokens", n
            if n >= self.least or wish:
                decision, prune, after = "pruned", self.prune_ms(n), round(self.keep * n)
            if self.headers:
                headers |= {
                    "x-tokenprune-decision": decision,
                    "x-tokenprune-ms": f"{prune:.2f}",
                    "x-tokenprune-tokens-before": str(n),
                    "x-tokenprune-tokens-after": str(after),
                }
            await self._pass(prune)
            n = after
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        # Before the first token: neither of the two is one.
        await self._write(response, b": keep-alive\n\n")
        await self._send(response, {"choices": [{"delta": {"role": "assistant", "content": ""}}]})
        await self._pass(self.a + self.b * n + self.c * n * n)
        if fault == "slow":
            await asyncio.sleep(30)
        if fault == "mid-stream":
            await self._send(response, {"error": {"message": "the engine died", "code": 500}})
        for number, text in enumerate(() if fault == "mid-stream" else self.answer):
            if number:
                await self._pass(self.gap_ms)
            await self._send(response, {"choices": [{"delta": {"content": text}}]})
            if fault in ("cut", "broken"):
                if fault == "broken":
                    request.transport.abort()
                return response
        if fault != "mid-stream":
            await self._send(response, {"choices": [{"delta": {"content": ""}, "finish_reason": "stop"}]})
            if self.usage:
                usage = {"prompt_tokens": n, "completion_tokens": len(self.answer) + 1}
                usage["prompt_tokens_details"] = {"cached_tokens": 0}
                await self._send(response, {"choices": [], "usage": usage})
        await self._write(response, b"data: [DONE]\n\n")
        return response

    async def _send(self, response, chunk):
        await self._write(response, b"data: " + json.dumps(chunk).encode() + b"\n\n")

    async def _pass(self, ms):
        if self.clock is None:
            await asyncio.sleep(ms / 1e3)
        else:
            self.clock.now += ms / 1e3

    async def _write(self, response, data):
        before = 0 if self.clock is None else self.clock.reads
        await response.write(data)
        for _ in range(10_000):  # the clock must not go on before the client has read it
            if self.clock is None or self.clock.reads > before:
                return
            await asyncio.sleep(0.001)


@pytest.fixture
def stub():
    """Start a stub with the given behaviour."""
    started = []

    def start(**behaviour):
        started.append(Stub(**behaviour).start())
        return started[-1]

    yield start
    for server in started:
        server.stop()


@pytest.fixture
def make_case():
    def make(name, words, **fields):
        text = " ".join(["word"] * (words - 2))
        fields = {"question": "Where", "answers": ("Paris",), "max_tokens": 4} | fields
        return Case(name, ({"role": "user", "content": f"{text} Where {name}"},), **fields)

    return make


@pytest.fixture
def measured(tmp_path):
    """Run `tokenprune bench ttft` in this process; gives the report as it stands on disk, and what was printed."""
    from tokenprune.bench.ttft import run

    def go(direct, proxy, cases, **settings):
        workload = tmp_path / "workload.jsonl"
        lines = [vars(case) | {"tokenprune": case.options} for case in cases]
        for line in lines:
            del line["options"]
        workload.write_text("\n".join(json.dumps(line) for line in lines), encoding="utf-8")
        screen = io.StringIO()
        settings = {"warmup": 1, "timeout_s": 20.0} | settings
        made = Settings(direct, proxy, str(workload), tmp_path / "out", **settings)
        run(made, "the command", Console(file=screen, width=250), Console(file=io.StringIO()))
        report = json.loads((tmp_path / "out" / "report.json").read_text("utf-8"))
        return report, screen.getvalue(), (tmp_path / "out" / "report.html").read_text("utf-8")

    return go
