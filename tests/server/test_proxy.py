"""UpstreamApp: byte-exact, unbuffered, cancel-safe, and clear when the upstream fails."""

import asyncio
import gzip
import json
import socket
import threading
import time

import httpx
import pytest

from tokenprune.errors import ConfigError
from tokenprune_server.proxy import UpstreamApp


def raw_exchange(url: str, request: bytes) -> bytes:
    """Send bytes, read the answer until the connection closes."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as sock:
        sock.sendall(request)
        out = b""
        while part := sock.recv(65536):
            out += part
        return out


@pytest.fixture
def proxy(stub, serve):
    return serve(UpstreamApp(stub.url))


class TestPassThrough:
    @pytest.mark.parametrize(
        "target",
        [
            b"/",
            b"/v1/x?a=1&a=2&b=%20+%2B&c",
            b"//double//slash/../dots/./%2e%2e/%2F",
            b"/%F0%9F%98%80/%FF%00?q=%FF",
            b"/a;b=c,d:e@f!$&'()*+~?x=[]{}|^`\"<>",
        ],
    )
    def test_target_is_kept(self, stub, proxy, target):
        raw_exchange(proxy, b"GET " + target + b" HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n")
        assert stub.last.target == target

    @pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"])
    def test_method_and_body_are_kept(self, stub, proxy, method):
        body = bytes(range(256)) * 3 if method not in ("GET", "HEAD") else b""
        response = httpx.request(method, f"{proxy}/x", content=body)
        assert response.status_code == 200
        assert (stub.last.method, stub.last.body) == (method.encode(), body)

    def test_headers_are_kept_and_nothing_is_added(self, stub, proxy):
        lines = [
            b"host: h",
            b"x-twice: 1",
            b"x-twice: 2",
            b"cookie: a=b",
            b"authorization: Bearer sk-1",
            "x-name: caf\u00e9".encode(),
            b"x-empty: ",
            b"accept-encoding: gzip, br",
            b"x-request-id: 7",
            b"te: trailers",
            b"keep-alive: 5",
            b"x-hop: secret",
            b"expect: 100-continue",
            b"connection: close, x-hop",
        ]
        out = raw_exchange(
            proxy, b"POST /x HTTP/1.1\r\n" + b"\r\n".join(lines) + b"\r\ncontent-length: 2\r\n\r\nab"
        )
        assert b" 200 " in out
        got = sorted((name.lower(), value) for name, value in stub.last.headers)
        assert got == sorted(
            [
                (b"host", stub.url.removeprefix("http://").encode()),
                (b"x-twice", b"1"),
                (b"x-twice", b"2"),
                (b"cookie", b"a=b"),
                (b"authorization", b"Bearer sk-1"),
                (b"x-name", "caf\u00e9".encode()),
                (b"x-empty", b""),
                (b"accept-encoding", b"gzip, br"),
                (b"x-request-id", b"7"),
                (b"content-length", b"2"),
            ]
        )
        assert [value for name, value in stub.last.headers if name.lower() == b"x-twice"] == [b"1", b"2"]

    def test_header_bytes_that_cannot_be_carried_are_refused(self, stub, proxy):
        out = raw_exchange(
            proxy, b"GET /x HTTP/1.1\r\nhost: h\r\nx-name: caf\xe9\r\nconnection: close\r\n\r\n"
        )
        assert out.startswith(b"HTTP/1.1 400")
        assert not stub.requests

    def test_answer_is_kept(self, stub, proxy):
        packed = gzip.compress(b"hello")

        async def script(request, writer):
            headers = [
                b"content-encoding: gzip",
                b"set-cookie: a=1",
                b"set-cookie: b=2",
                b"server: stub",
                b"date: now",
            ]
            headers += [b"x-raw: \xe9", b"keep-alive: 5", b"connection: x-private", b"x-private: 1"]
            await stub.answer(writer, packed, b"418 Teapot", headers)

        stub.script = script
        out = raw_exchange(proxy, b"GET / HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n")
        head, _, body = out.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 418")
        assert body == packed
        lines = head.split(b"\r\n")[1:]
        expected = [
            b"content-encoding: gzip",
            b"set-cookie: a=1",
            b"set-cookie: b=2",
            b"server: stub",
            b"date: now",
        ]
        assert lines == [*expected, b"x-raw: \xe9", b"content-length: %d" % len(packed), b"connection: close"]

    def test_redirects_and_cookies_are_the_clients_business(self, stub, proxy):
        async def script(request, writer):
            await stub.answer(writer, b"", b"302 Found", [b"location: /elsewhere", b"set-cookie: a=1"])

        stub.script = script
        for _ in range(2):
            assert httpx.get(f"{proxy}/x").headers["location"] == "/elsewhere"
        assert [r.target for r in stub.requests] == [b"/x", b"/x"]
        assert stub.last.values(b"cookie") == []

    @pytest.mark.parametrize(
        ("suffix", "path", "target"),
        [
            ("", "/v1/models2", b"/v1/models2"),
            ("/", "/v1/a", b"/v1/a"),
            ("/v1", "/v1/a", b"/v1/a"),
            ("/v1/", "/health", b"/health"),
            ("/pre/fix", "/v1/a", b"/pre/fix/v1/a"),
            ("/pre/fix/v1", "/v1/a?b=c", b"/pre/fix/v1/a?b=c"),
        ],
    )
    def test_base_url(self, stub, serve, suffix, path, target):
        httpx.get(serve(UpstreamApp(stub.url + suffix)) + path)
        assert stub.last.target == target

    @pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://x", "http://", "http://h/?a=b"])
    def test_bad_base_url(self, url):
        with pytest.raises(ConfigError, match="upstream"):
            UpstreamApp(url)

    def test_large_bodies_are_streamed_both_ways(self, stub, proxy):
        async def script(request, writer):
            await stub.answer(writer, request.body)

        stub.script = script
        body = b"0123456789abcdef" * 2**18
        assert httpx.post(f"{proxy}/x", content=body).content == body
        assert stub.last.values(b"content-length") == [str(len(body)).encode()]
        parts = [body[i : i + 100_000] for i in range(0, len(body), 100_000)]
        assert httpx.post(f"{proxy}/x", content=iter(parts)).content == body
        assert stub.last.values(b"transfer-encoding") == [b"chunked"]

    def test_connections_are_reused(self, stub, proxy):
        with httpx.Client() as client:
            for n in range(20):
                assert client.post(f"{proxy}/{n}", content=b"x").status_code == 200
        assert [r.target for r in stub.requests] == [b"/%d" % n for n in range(20)]

    def test_first_event_arrives_before_the_upstream_has_finished(self, stub, proxy):
        seen = threading.Event()

        async def script(request, writer):
            await stub.begin_chunked(writer)
            await stub.chunk(writer, b"data: 1\n\n")
            while not seen.is_set():
                await asyncio.sleep(0.01)
            await stub.chunk(writer, b"data: 2\n\n")
            await stub.chunk(writer)

        stub.script = script
        with httpx.stream("POST", f"{proxy}/x", content=b"{}") as response:
            events = response.iter_raw()
            assert next(events) == b"data: 1\n\n"
            assert not stub.last.finished.is_set()
            seen.set()
            assert b"".join(events) == b"data: 2\n\n"


class TestFailures:
    def test_upstream_down(self, serve, closed_port):
        kinds = []
        proxy = serve(UpstreamApp(f"http://127.0.0.1:{closed_port}", on_error=kinds.append))
        response = httpx.post(f"{proxy}/v1/chat/completions", json={})
        assert response.status_code == 502
        error = response.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["code"] == 502
        assert "cannot be reached" in error["message"]
        assert kinds == ["connect"]

    def test_upstream_silent(self, stub, serve):
        stub.script = lambda request, writer: asyncio.sleep(30)
        proxy = serve(UpstreamApp(stub.url, read_timeout_s=0.3))
        response = httpx.post(f"{proxy}/x", json={})
        assert (response.status_code, response.json()["error"]["code"]) == (504, 504)

    def test_upstream_that_talks_nonsense(self, stub, proxy):
        async def script(request, writer):
            writer.write(b"nonsense\r\n\r\n")

        stub.script = script
        assert httpx.get(f"{proxy}/x").status_code == 502

    def test_dying_before_the_answer(self, stub, proxy):
        async def script(request, writer):
            writer.close()

        stub.script = script
        assert httpx.post(f"{proxy}/x", json={}).status_code == 502

    @pytest.mark.parametrize("ending", [b"data: 1\n\n", b"data: {"])
    def test_dying_in_an_event_stream(self, stub, proxy, ending):
        async def script(request, writer):
            await stub.begin_chunked(writer)
            await stub.chunk(writer, ending)
            writer.close()

        stub.script = script
        response = httpx.post(f"{proxy}/x", json={})
        events = [line for line in response.text.split("\n") if line]
        assert events[0] == ending.decode().strip()
        assert json.loads(events[1].removeprefix("data: "))["error"]["code"] == 502
        assert events[2] == "data: [DONE]"

    @pytest.mark.parametrize("framing", ["chunked", "length"])
    def test_dying_in_another_answer_is_visible(self, stub, proxy, framing):
        async def script(request, writer):
            if framing == "chunked":
                await stub.begin_chunked(writer, b"application/json")
                await stub.chunk(writer, b'{"a"')
            else:
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n" + b'{"a"')
                await writer.drain()
            writer.close()

        stub.script = script
        with pytest.raises(httpx.RemoteProtocolError):
            httpx.post(f"{proxy}/x", json={})


class TestDisconnect:
    """The client leaves: streaming or not, before or after the first byte, and while it still sends."""

    @pytest.mark.parametrize("stream", [True, False])
    @pytest.mark.parametrize("after_first_byte", [True, False])
    def test_frees_the_upstream(self, stub, proxy, stream, after_first_byte):
        async def script(request, writer):
            if after_first_byte:
                await stub.begin_chunked(writer, b"text/event-stream" if stream else b"application/json")
                await stub.chunk(writer, b"data: 1\n\n" if stream else b'{"a"')
            await asyncio.sleep(30)

        stub.script = script
        host, port = proxy.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as sock:
            body = json.dumps({"stream": stream}).encode()
            sock.sendall(b"POST /x HTTP/1.1\r\nhost: h\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
            assert stub.arrived.wait(5)
            if after_first_byte:
                assert sock.recv(10)
            else:
                time.sleep(0.1)
            assert not stub.last.closed.is_set()
        assert stub.last.closed.wait(1.5)

    def test_while_uploading(self, stub, proxy):
        host, port = proxy.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as sock:
            sock.sendall(b"POST /x HTTP/1.1\r\nhost: h\r\ncontent-length: 1000\r\n\r\nabc")
            time.sleep(0.2)
        time.sleep(0.2)
        assert not stub.requests
        assert httpx.get(f"{proxy}/after").status_code == 200

    def test_many_at_once_leave_nothing_behind(self, stub, proxy):
        stub.script = lambda request, writer: asyncio.sleep(30)
        host, port = proxy.removeprefix("http://").split(":")
        sockets = [socket.create_connection((host, int(port))) for _ in range(20)]
        for sock in sockets:
            sock.sendall(b"POST /x HTTP/1.1\r\nhost: h\r\ncontent-length: 2\r\n\r\n{}")
        deadline = time.monotonic() + 5
        while len(stub.requests) < 20 and time.monotonic() < deadline:
            time.sleep(0.02)
        for sock in sockets:
            sock.close()
        assert all(request.closed.wait(2) for request in stub.requests)
        stub.script = lambda request, writer: stub.answer(writer)
        assert httpx.get(f"{proxy}/after").status_code == 200


async def test_websockets_are_refused():
    app = UpstreamApp("http://127.0.0.1:1")
    sent = []

    async def receive():
        return {"type": "websocket.connect"}

    async def send(message):
        sent.append(message)

    await app({"type": "websocket", "path": "/v1/realtime"}, receive, send)
    assert [message["type"] for message in sent] == ["websocket.close"]


async def test_lifespan_closes_the_session():
    app = UpstreamApp("http://127.0.0.1:1")
    incoming = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    sent = []

    async def receive():
        return incoming.pop(0)

    async def send(message):
        sent.append(message["type"])

    await app({"type": "lifespan"}, receive, send)
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert app._session is None
