"""What the ledger says of a request before it is answered, and what is left of one that never is."""

import asyncio
import contextlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from gate_world import (
    URL,
    CachingUpstream,
    Clock,
    MarkConfig,
    about,
    asks,
    chat,
    document,
    prompt,
    proxies,
    user,
)

from tokenprune_server.decide import Cost
from tokenprune_server.ledger import Ledger, Record, Sent
from tokenprune_server.middleware import PruneMiddleware
from tokenprune_server.runtime import Runtime

GIVEN = user("<!DOCTYPE html><html><body>" + document(1) + "</body></html>")
ANSWER = {"role": "assistant", "content": "Read."}


class Moody(CachingUpstream):
    """Refuses, fails, or waits for ``go`` with requests whose ``user`` says so."""

    def __init__(self):
        super().__init__()
        self.go, self.waiting = threading.Event(), threading.Semaphore(0)

    async def answer(self, send, content):
        await self.react(send, super().answer(send, content))

    async def stream(self, send, body, usage):
        await self.react(send, super().stream(send, body, usage))

    async def react(self, send, answering):
        mood = self.bodies[-1].get("user") if self.bodies else None
        headers = [(b"content-type", b"application/json")]
        if mood == "refuse":
            answering.close()
            await send({"type": "http.response.start", "status": 429, "headers": headers})
            await send({"type": "http.response.body", "body": b'{"error": {"message": "busy"}}'})
            return
        if mood == "break":
            answering.close()
            raise ConnectionResetError
        if mood == "late error":
            answering.close()
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            data = b'data: {"error": {"message": "the engine died"}}\n\ndata: [DONE]\n\n'
            await send({"type": "http.response.body", "body": data})
            return
        if mood in ("wait", "wait and refuse"):
            self.waiting.release()
            await asyncio.to_thread(self.go.wait, 20)
        if mood == "wait and refuse":
            answering.close()
            await send({"type": "http.response.start", "status": 503, "headers": headers})
            await send({"type": "http.response.body", "body": b"{}"})
            return
        await answering


@pytest.fixture
def start(serve):
    with proxies(serve) as begin:
        yield lambda **settings: begin(Moody(), **settings)


def post(proxy, body):
    return proxy.client.post(proxy.url + URL, json=body)


def kept(gate):
    """Turns, places and blocks that the ledger remembers or has under way."""
    ledger = gate.ledger
    stores = (ledger._turns, ledger._places, ledger._cached, ledger._under_way.turns, ledger._scopes)
    return sum(len(store) for store in stores)


def text(body):
    return str(body["messages"])


@contextlib.contextmanager
def in_flight(proxy, body):
    """The request is with the upstream, which does not answer."""
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(httpx.post, proxy.url + URL, json=body, timeout=30)
        assert proxy.upstream.waiting.acquire(timeout=20)
        try:
            yield future
        finally:
            proxy.upstream.go.set()
        future.result(20)


class TestNoTrace:
    @pytest.mark.parametrize(
        ("more", "status"),
        [
            ({"user": "refuse"}, 429),
            ({"user": "refuse", "stream": True}, 429),
            ({"user": "break"}, 500),
            ({"user": "late error", "stream": True}, 200),
            ({"user": "refuse", "tokenprune": {"enabled": False}}, 429),
        ],
    )
    def test_of_what_failed(self, start, more, status):
        proxy = start()
        response = post(proxy, about(1, 3, **more))
        assert response.status_code == status
        assert proxy.gate.in_flight == 0
        assert kept(proxy.gate) == 0
        # Nothing was seen, so another question finds a new document, and a chat that goes on an unsent turn.
        proxy.send(about(1, 8))
        assert proxy.decisions == ["pruned"]
        assert "mark1x3 " not in text(proxy.last)

    def test_of_what_the_client_gave_up(self, start):
        proxy = start()
        with ThreadPoolExecutor(1) as pool:
            body = about(1, 3, user="wait", stream=True)
            future = pool.submit(httpx.post, proxy.url + URL, json=body, timeout=2)
            assert proxy.upstream.waiting.acquire(timeout=20)
            with pytest.raises(httpx.ReadTimeout):
                future.result()
        deadline = time.monotonic() + 20
        while proxy.gate.in_flight:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        proxy.upstream.go.set()
        assert kept(proxy.gate) == 0

    async def test_of_an_app_that_raises(self):
        """As it is inside vLLM, where no proxy makes a 502 of it."""

        async def app(scope, receive, send):
            raise ZeroDivisionError

        middleware = PruneMiddleware(app, runtime=Runtime(MarkConfig(Clock(), max_model_len=9999)))
        content = httpx.Request("POST", "http://x", json=about(1, 3)).content

        async def receive():
            return {"type": "http.request", "body": content, "more_body": False}

        async def send(message):
            raise AssertionError

        scope = {"type": "http", "method": "POST", "path": URL, "headers": []}
        with pytest.raises(ZeroDivisionError):
            await middleware(scope, receive, send)
        gate = middleware.runtime.gate
        assert (gate.in_flight, kept(gate)) == (0, 0)

    def test_without_the_gate(self, start):
        proxy = start(gate="off")
        proxy.send(about(1, 3))
        assert (proxy.decisions, kept(proxy.gate)) == (["pruned"], 0)


class TestInFlight:
    def test_the_same_request_goes_as_it_went(self, start, monkeypatch):
        proxy = start()
        with in_flight(proxy, about(1, 3, user="wait")) as first:
            assert not proxy.gate.ledger._turns, "nothing is kept before the answer"
            monkeypatch.setattr(Cost, "gain_s", lambda cost: -1.0)  # today it would not be pruned
            proxy.send(about(1, 3))
            assert not first.done()
            sent = [body["messages"] for body in proxy.upstream.bodies]
            assert sent[0] == sent[1] and "mark1x8 " not in str(sent[0])
        proxy.send(about(1, 3))
        assert proxy.last["messages"] == sent[0]
        assert proxy.decisions == ["pruned"] * 2

    def test_another_question_sees_the_document(self, start):
        proxy = start()
        with in_flight(proxy, about(1, 3, user="wait")):
            proxy.send(about(1, 8))
            proxy.send(about(2, 8))
        assert proxy.decisions == ["skipped:shared", "pruned"]

    def test_a_turn_pruned_for_another_question_is_not_replayed(self, start):
        proxy = start()
        with in_flight(proxy, chat(GIVEN, user(asks(1, 3)), user="wait")):
            proxy.send(chat(GIVEN, user(asks(1, 8))))
        assert "mark1x8 saw" in text(proxy.last)

    def test_one_that_went_alike_stands_when_the_first_fails(self, start):
        proxy = start()
        with in_flight(proxy, about(1, 3, user="wait and refuse")):
            proxy.send(about(1, 3))
        sent = proxy.last["messages"]
        proxy.send(chat(*about(1, 3)["messages"], ANSWER, user("And the castle?")))
        assert proxy.last["messages"][:1] == sent

    def test_two_that_are_pruned_at_the_same_time_go_alike(self, start):
        proxy = start()
        body = chat(user(prompt(document(5), asks(5, 3))))
        with ThreadPoolExecutor(6) as pool:
            list(pool.map(lambda _: post(proxy, body), range(6)))
        assert len({str(body) for body in proxy.upstream.bodies}) == 1


def test_begin_and_end():
    ledger = Ledger(10**6, 60, Clock())
    one, two = (Record(((b"k", Sent(query=name)),), (b"place",), name.encode()) for name in ("a", "b"))
    for record in (one, two, two):
        ledger.begin(record)
    assert [sent.query for sent in ledger.sent([b"k"])] == ["b"]
    assert ledger.seen(b"place", b"a") and ledger.size == 0
    ledger.commit(two)
    ledger.end(two)
    ledger.end(two)
    assert [sent.query for sent in ledger.sent([b"k"])] == ["a"], "it is under way still"
    ledger.end(one)
    assert [sent.query for sent in ledger.sent([b"k"])] == ["b"]
    assert ledger.seen(b"place", b"a") and not ledger.seen(b"place", b"b")
