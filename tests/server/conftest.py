"""Real servers on loopback for the tests: a scriptable stub upstream, our apps under uvicorn, and vLLM."""

import asyncio
import contextlib
import importlib.util
import json
import os
import threading
import time
from dataclasses import dataclass, field

import httpx
import pytest
import uvicorn

from benchmarks.common.served import any_vllm, free_port
from tokenprune.errors import MeasureError, UnknownNameError
from tokenprune.given_up import look
from tokenprune.pipeline import Pipeline
from tokenprune.receipt import PruneResult, Receipt, UnitRecords
from tokenprune.tokens import get_counter
from tokenprune_server.app import create_app, listen, uvicorn_config


@dataclass
class Recorded:
    """One request as it arrived at the stub."""

    method: bytes
    target: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes
    closed: threading.Event = field(default_factory=threading.Event)
    finished: threading.Event = field(default_factory=threading.Event)

    def values(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.headers if key.lower() == name]


async def answer(
    writer, body=b"{}", status=b"200 OK", headers=(b"content-type: application/json",), head=False
):
    """A complete answer with a content-length; only its head for the method HEAD."""
    lines = b"\r\n".join([b"HTTP/1.1 " + status, *headers, b"content-length: %d" % len(body)])
    writer.write(lines + b"\r\n\r\n" + (b"" if head else body))
    await writer.drain()


async def begin_chunked(writer, kind=b"text/event-stream"):
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: " + kind + b"\r\ntransfer-encoding: chunked\r\n\r\n")
    await writer.drain()


async def chunk(writer, data=b""):
    writer.write(b"%x\r\n%b\r\n" % (len(data), data))
    await writer.drain()


class Stub:
    """A raw HTTP/1.1 server that does what ``script(request, writer)`` says and keeps what it was sent.

    While the script runs, the connection is watched: when the peer closes it, ``request.closed`` is set and
    the script is cancelled.
    """

    answer, begin_chunked, chunk = staticmethod(answer), staticmethod(begin_chunked), staticmethod(chunk)

    def __init__(self):
        self.requests: list[Recorded] = []
        self.script = lambda request, writer: answer(writer, head=request.method == b"HEAD")
        self.models = b'{"object":"list","data":[{"id":"m","max_model_len":4096}]}'
        self.counts = 0  # what it says to /tokenize; 0: it has no such route, None: as the script does
        self.arrived = threading.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), daemon=True)

    def start(self):
        self._thread.start()
        assert self._ready.wait(5)
        return self

    def stop(self):
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(5)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def last(self) -> Recorded:
        return self.requests[-1]

    async def _main(self):
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self._tasks: set[asyncio.Task] = set()
        server = await asyncio.start_server(self._connection, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connection(self, reader, writer):
        self._tasks.add(asyncio.current_task())
        try:
            while (request := await self._read(reader)) is not None:
                await self._serve(request, reader, writer)
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(asyncio.current_task())
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _serve(self, request, reader, writer):
        if request.target == b"/v1/models":
            await answer(writer, self.models)
            return
        if request.target == b"/tokenize" and self.counts is not None:
            status = b"200 OK" if self.counts else b"404 Not Found"
            await answer(writer, b'{"count":%d}' % self.counts, status)
            return
        self.requests.append(request)
        self.arrived.set()
        script = asyncio.ensure_future(self.script(request, writer))
        watch = asyncio.ensure_future(reader.read(1))
        await asyncio.wait({script, watch}, return_when=asyncio.FIRST_COMPLETED)
        if watch.done() and not script.done():
            script.cancel()
            request.closed.set()
        elif not watch.done():
            watch.cancel()
        with contextlib.suppress(asyncio.CancelledError, ConnectionError):
            await script
            request.finished.set()
        with contextlib.suppress(asyncio.CancelledError):
            await watch
        if request.closed.is_set() or writer.is_closing():
            raise ConnectionError

    async def _read(self, reader):
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return None
        first, *lines = head[:-4].split(b"\r\n")
        method, target, _ = first.split(b" ", 2)
        headers = [tuple(line.split(b": ", 1)) for line in lines]
        request = Recorded(method, target, headers, b"")
        if request.values(b"transfer-encoding") == [b"chunked"]:
            while size := int(await reader.readline(), 16):
                request.body += await reader.readexactly(size)
                await reader.readexactly(2)
            await reader.readexactly(2)
        elif length := request.values(b"content-length"):
            request.body = await reader.readexactly(int(length[0]))
        return request


class ServerThread:
    """An ASGI app under uvicorn, with this project's uvicorn settings, in a thread."""

    def __init__(self, app):
        self.sock = listen("127.0.0.1", 0)
        self.port = self.sock.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        config = uvicorn_config(app, log_level="critical")
        config.timeout_graceful_shutdown = 2
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.sock]}, daemon=True)

    def start(self):
        self.thread.start()
        deadline = time.monotonic() + 20
        while not self.server.started:
            assert self.thread.is_alive(), "the server did not start"
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return self

    def stop(self):
        self.server.should_exit = True
        self.thread.join(10)
        self.sock.close()


class WordPipeline:
    """Keeps the lines that share a word with the query, within the budget; does what its name says."""

    uses_query = True
    prunes_nothing = False

    def __init__(self, name, calls):
        self.name, self.calls = name, calls

    def prune(self, query, documents, budget=None):
        self.calls.append((query, documents, budget))
        if self.name == "broken":
            raise ZeroDivisionError("the pruner is broken")
        if self.name == "slow":
            time.sleep(1.5)
        if self.name == "patient":  # long work that looks whether anybody waits
            for _ in range(1000):
                time.sleep(0.02)
                look()
        counter = get_counter()
        before = sum(counter.count(d.text) for d in documents)
        limit = budget.limit(before) if budget is not None else None
        words = {word.strip("?.,").lower() for word in query.split() if len(word) > 4}
        left = 2 * before + 100 if limit is None else limit
        out, receipts = [], []
        for document in documents:
            lines = document.text.split("\n")
            kept = []
            for line in lines:
                hit = self.name == "keep-all" or bool(
                    words & {w.strip("?.,<>/p").lower() for w in line.split()}
                )
                cost = counter.count(line) + 2
                keep = hit and self.name != "drop-all" and cost <= left
                left -= cost if keep else 0
                kept.append(keep)
            text = "\n".join(line for line, keep in zip(lines, kept, strict=True) if keep)
            out.append(document.with_text(text))
            tokens = counter.count(document.text)
            units = UnitRecords.whole(
                len(document.text), tokens, kept=any(kept), stage="words", reason="test"
            )
            receipts.append(Receipt(document.id, units, tokens, counter.count(text)))
        after = sum(r.tokens_after for r in receipts)
        originals = {d.id: d for d in documents}
        return PruneResult(out, receipts, before, after, 0.001, {"words": 0.001}, originals)


class StandInConfig:
    """A configuration whose pipelines are simple enough to foretell, so that tests are about the server.

    ``none`` is the real one.
    """

    tokenizer = "smollm2-135m"
    names = ("default", "broken", "slow", "patient", "drop-all", "keep-all", "none")

    def __init__(self, **server):
        self.server = server
        self.pipelines = dict.fromkeys(self.names)
        self.calls = []

    def build(self, name="default", output=None):
        if name not in self.names:
            raise UnknownNameError("pipeline or pruner", name, list(self.names))
        return Pipeline("none") if name == "none" else WordPipeline(name, self.calls)


@pytest.fixture
def stand_in():
    """Make a stand-in configuration with server settings."""
    return lambda **server: StandInConfig(**({"min_document_tokens": 50} | server))


@pytest.fixture
def stub():
    server = Stub().start()
    yield server
    server.stop()


@pytest.fixture
def serve():
    """Serve an ASGI app for the length of a test; gives its URL."""
    with contextlib.ExitStack() as stack:

        def start(app) -> str:
            server = ServerThread(app).start()
            stack.callback(server.stop)
            return server.url

        yield start


@pytest.fixture
def post(stub, serve, stand_in):
    """Post a chat request through a server with the given settings."""
    servers = {}

    def send(body, path="/v1/chat/completions", headers=None, **settings):
        key = json.dumps(settings, sort_keys=True)
        if key not in servers:
            servers[key] = serve(create_app(stand_in(**settings), stub.url))
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"content-type": "application/json"} | (headers or {})
        return httpx.post(servers[key] + path, content=content, headers=headers, timeout=20)

    return send


@pytest.fixture
def closed_port() -> int:
    return free_port()


@dataclass
class VllmServer:
    url: str
    model: str

    def running(self) -> float:
        text = httpx.get(f"{self.url}/metrics").text
        return sum(
            float(line.rsplit(" ", 1)[1])
            for line in text.splitlines()
            if line.startswith("vllm:num_requests_running{")
        )


@contextlib.contextmanager
def running_vllm(folder, *extra: str, env: dict[str, str] | None = None, model=None, name="smollm2-135m"):
    """A vLLM server on CPU, of the named model or the folder ``model``; its URL once it answers.

    It starts with as few processes as can be, for each imports all of vLLM: with that variable "uni" is
    believed, and the engine has no worker process beside it. Nothing is compiled, and one thread leaves the
    other core to the tests.
    """
    from tokenprune.models.catalog import model_path
    from tokenprune.models.device import pick_dtype

    require_vllm()
    dtype = str(pick_dtype("cpu", None)).removeprefix("torch.")  # bfloat16 is slow where it is emulated
    options = ("--dtype", dtype, "--distributed-executor-backend", "uni", *extra)
    small = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "TORCHDYNAMO_DISABLE": "1", "OMP_NUM_THREADS": "1"}
    log = folder / "server.log"
    try:
        with any_vllm(str(model or model_path(name)), log, name, *options, env=small | (env or {})) as url:
            yield url
    except MeasureError as error:
        pytest.fail(f"{error}\n{log.read_text(errors='replace')[-4000:]}")


def require_vllm() -> None:
    if importlib.util.find_spec("vllm") is None:
        message = "vLLM is not installed in this environment"
        if os.environ.get("TOKENPRUNE_REQUIRE_VLLM") == "1":
            pytest.fail(message)
        pytest.skip(message)


@pytest.fixture(scope="session")
def vllm_server(tmp_path_factory):
    """One real vLLM server for the whole run."""
    # A short context makes an over-long prompt, and its prefill after the rescue, cheap.
    options = ("--max-model-len", "1024", "--enable-auto-tool-choice", "--tool-call-parser", "hermes")
    with running_vllm(tmp_path_factory.mktemp("vllm"), *options) as url:
        yield VllmServer(url, "smollm2-135m")


@contextlib.contextmanager
def _vllm_starter(folder):
    with contextlib.ExitStack() as stack:
        yield lambda *extra, **how: stack.enter_context(running_vllm(folder, *extra, **how))


@pytest.fixture
def vllm_starter(tmp_path):
    """Start further vLLM servers, stopped at the end of the test."""
    with _vllm_starter(tmp_path) as start:
        yield start


@pytest.fixture(scope="module")
def vllm_module_starter(tmp_path_factory):
    """Start vLLM servers that serve all tests of a module."""
    with _vllm_starter(tmp_path_factory.mktemp("vllm")) as start:
        yield start
