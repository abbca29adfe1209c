"""What the pass-through costs: proxy against direct, in front of a local SSE stub.

    python benchmarks/proxy_overhead/run.py [--rounds 7] [--seconds 2] [--out build/proxy_overhead.json]

A stub upstream answers every request with a short SSE stream (8 events, each written in its own turn of the
event loop). A client with a minimal HTTP parser, so that it costs next to nothing itself, talks to the stub
directly and through the proxy, in turns (interleaved rounds; the figures are medians over rounds):

- added TTFT at c=1: median time to the first body byte through the proxy minus the same direct;
- streams/s at c=16: complete streams per second over 16 connections. The proxy process is pinned to one core,
  the client and the stub to another, so the figure is what one core of proxy can do.

Requests are small chat completions, read and parsed by the pruning middleware and then passed on unpruned;
a second figure is for a route that is not prunable. Targets: at most 1 ms, at least 800 streams/s.
"""

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from tokenprune.bench.machine import machine

EVENTS = 8
CONNECTIONS = 16
TARGET_TTFT_MS = 1.0
TARGET_STREAMS_S = 800.0
ROUTES = {"prunable": "/v1/chat/completions", "other": "/v1/embeddings"}


def chunked(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
EVENT = chunked(
    b'data: {"id":"x","object":"chat.completion.chunk","choices":[{"delta":{"content":"word"}}]}\n\n'
)
LAST = chunked(b"data: [DONE]\n\n") + b"0\r\n\r\n"


class Stub(asyncio.Protocol):
    """Answers each request on a connection with the same short stream."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.buffer = b""
        self.loop = asyncio.get_running_loop()

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, separator, rest = self.buffer.partition(b"\r\n\r\n")
        if not separator:
            return
        length = 0
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                length = int(line[15:])
        if len(rest) < length:
            return
        self.buffer = rest[length:]
        if b" /v1/models " in head.split(b"\r\n", 1)[0]:
            body = b'{"object":"list","data":[{"id":"stub","max_model_len":8192}]}'
            head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(
                body
            )
            self.transport.write(head + body)
            return
        self.transport.write(HEAD + EVENT)
        self.loop.call_soon(self.more, EVENTS - 1)

    def more(self, left: int) -> None:
        if self.transport.is_closing():
            return
        self.transport.write(EVENT if left else LAST)
        if left:
            self.loop.call_soon(self.more, left - 1)


async def run_stub() -> None:
    server = await asyncio.get_running_loop().create_server(Stub, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def run_proxy(upstream: str) -> None:
    import uvicorn

    from tokenprune.config import load_config
    from tokenprune_server.app import create_app, listen, uvicorn_config

    sock = listen("127.0.0.1", 0)
    print(sock.getsockname()[1], flush=True)
    uvicorn.Server(uvicorn_config(create_app(load_config(None), upstream))).run(sockets=[sock])


class Client:
    """One keep-alive connection; reads exactly one chunked answer per request."""

    def __init__(self, port: int, route: str) -> None:
        body = json.dumps(
            {
                "model": "stub",
                "stream": True,
                "messages": [{"role": "user", "content": "Say something short."}],
            }
        ).encode()
        head = f"POST {route} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        self.request = f"{head}content-length: {len(body)}\r\n\r\n".encode() + body
        self.port = port

    async def open(self) -> "Client":
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        return self

    async def stream(self) -> float:
        """One request; seconds to the first body byte."""
        start = time.perf_counter()
        self.writer.write(self.request)
        data = b""
        first = 0.0
        while not data.endswith(b"0\r\n\r\n"):
            part = await self.reader.read(65536)
            if not part:
                raise ConnectionError("the server closed the connection")
            data += part
            if not first and b"data:" in data:
                first = time.perf_counter() - start
        if not data.startswith(b"HTTP/1.1 200") or data.count(b"data: ") != EVENTS + 1:
            raise ValueError(f"not the stream that was sent: {data[:300]!r}")
        return first

    def close(self) -> None:
        self.writer.close()


async def ttft_ms(port: int, route: str, seconds: float) -> float:
    client = await Client(port, route).open()
    times = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        times.append(await client.stream())
    client.close()
    return 1000 * statistics.median(times)


async def streams_per_second(port: int, route: str, seconds: float) -> float:
    clients = [await Client(port, route).open() for _ in range(CONNECTIONS)]
    start = time.perf_counter()
    done = 0

    async def work(client: Client) -> None:
        nonlocal done
        while time.perf_counter() < start + seconds:
            await client.stream()
            done += 1

    await asyncio.gather(*(work(client) for client in clients))
    elapsed = time.perf_counter() - start
    for client in clients:
        client.close()
    return done / elapsed


def child(role: str, core: int, *args: str) -> "tuple[subprocess.Popen[str], int]":
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__)), "--role", role, "--core", str(core), *args],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"the {role} process did not start")
    return process, int(line)


def pin(core: int) -> None:
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[core % len(cores)]})


async def wait_ready(port: int) -> None:
    for _ in range(300):
        with contextlib.suppress(OSError):
            (await Client(port, ROUTES["other"]).open()).close()
            return
        await asyncio.sleep(0.1)
    raise RuntimeError("the proxy did not come up")


async def measure(stub: int, proxy: int, rounds: int, seconds: float) -> dict[str, float]:
    await wait_ready(proxy)
    values: dict[str, list[float]] = {}
    for round_number in range(rounds + 1):
        for name, route in ROUTES.items():
            for where, port in (("direct", stub), ("proxy", proxy)):
                row = {
                    f"ttft_p50_ms_c1_{where}_{name}": await ttft_ms(port, route, seconds / 2),
                    f"streams_s_c16_{where}_{name}": await streams_per_second(port, route, seconds),
                }
                if round_number:  # the first round warms up
                    for key, value in row.items():
                        values.setdefault(key, []).append(value)
    result = {key: statistics.median(series) for key, series in values.items()}
    for name in ROUTES:
        pairs = zip(
            values[f"ttft_p50_ms_c1_proxy_{name}"], values[f"ttft_p50_ms_c1_direct_{name}"], strict=True
        )
        result[f"added_ttft_p50_ms_c1_{name}"] = statistics.median(a - b for a, b in pairs)
    return result


def report(result: dict[str, float], where: str, rounds: int, seconds: float) -> str:
    rows = [
        f"| {name} | {result[f'ttft_p50_ms_c1_direct_{name}']:.2f} "
        f"| {result[f'ttft_p50_ms_c1_proxy_{name}']:.2f} "
        f"| **{result[f'added_ttft_p50_ms_c1_{name}']:.2f}** | {result[f'streams_s_c16_direct_{name}']:.0f} "
        f"| **{result[f'streams_s_c16_proxy_{name}']:.0f}** |"
        for name in ROUTES
    ]
    return "\n".join(
        [
            "### Pass-through cost of the proxy",
            "",
            f"`python benchmarks/proxy_overhead/run.py --rounds {rounds} --seconds {seconds:g}` "
            f"({time.strftime('%Y-%m-%d')}; {where})",
            "",
            f"| route | TTFT p50 direct, c=1 (ms) | through the proxy | added (target <= {TARGET_TTFT_MS:g}) "
            f"| streams/s direct, c=16 | through the proxy on one core (target >= {TARGET_STREAMS_S:g}) |",
            "|---|---:|---:|---:|---:|---:|",
            *rows,
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=2.0, help="per throughput measurement")
    parser.add_argument("--out", type=Path, default=Path("build/proxy_overhead.json"))
    parser.add_argument("--role", choices=["stub", "proxy"], help=argparse.SUPPRESS)
    parser.add_argument("--core", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--upstream", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.role:
        pin(args.core)
        if args.role == "stub":
            asyncio.run(run_stub())
        else:
            run_proxy(args.upstream)
        return
    stub, stub_port = child("stub", 1)
    proxy, proxy_port = child("proxy", 0, "--upstream", f"http://127.0.0.1:{stub_port}")
    pin(1)
    try:
        result = asyncio.run(measure(stub_port, proxy_port, args.rounds, args.seconds))
    finally:
        for process in (proxy, stub):
            process.terminate()
            process.wait(10)
    result_file = {"machine": machine(), "rounds": args.rounds, "seconds": args.seconds, **result}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result_file, indent=2) + "\n")
    print(report(result, machine(), args.rounds, args.seconds))
    met = all(
        result[f"added_ttft_p50_ms_c1_{name}"] <= TARGET_TTFT_MS
        and result[f"streams_s_c16_proxy_{name}"] >= TARGET_STREAMS_S
        for name in ROUTES
    )
    print(f"\ntargets {'met' if met else 'MISSED'}; figures in {args.out}")


if __name__ == "__main__":
    main()
