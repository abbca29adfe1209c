"""PruneMiddleware when pruning fails, is late, or must make a request fit the model's context."""

import asyncio
import gzip
import json
import socket
import threading
import time

import httpx
import pytest
from patience import is_given_up
from token_world import wait_for

from tokenprune.config import Config
from tokenprune.tokens import get_counter
from tokenprune_server.app import create_app
from tokenprune_server.middleware import PruneMiddleware
from tokenprune_server.proxy import UpstreamApp
from tokenprune_server.room import Room
from tokenprune_server.upstream_info import UpstreamInfo

NOISE = "The old market sells bells, ribbons and hats on every rainy day of the week, as it always has done."
FACT = "The lighthouse was built in 1871 by the harbour board."
Q = "When was the lighthouse built?"
DOCUMENT = "\n".join([NOISE] * 10 + [FACT] + [NOISE] * 10)
PROMPT = f"Context:\n{DOCUMENT}\n\nQuestion: {Q}"
URL = "/v1/chat/completions"


def chat(content=PROMPT, **more):
    return {"model": "m", "messages": [{"role": "user", "content": content}], **more}


def sent(stub):
    return json.loads(stub.last.body)


def said(stub):
    return sent(stub)["messages"][-1]["content"]


class TestFailure:
    def test_a_broken_pruner_fails_open(self, post, stub):
        body = json.dumps(chat()).encode()
        response = post(body, headers={"x-tokenprune-method": "broken"})
        assert (response.status_code, response.headers["x-tokenprune-decision"]) == (
            200,
            "failed:ZeroDivisionError",
        )
        assert stub.last.body == body
        post(chat(tokenprune={"method": "broken"}))
        assert sent(stub) == chat()

    def test_fail_closed(self, post, stub):
        response = post(chat(tokenprune={"method": "broken"}), fail="closed")
        assert response.status_code == 503
        assert "the pruner is broken" in response.json()["error"]["message"]
        assert response.headers["x-tokenprune-decision"] == "failed:ZeroDivisionError"
        assert not stub.requests

    def test_a_broken_pruner_and_a_prompt_too_long_is_a_clear_4xx(self, post, stub):
        response = post(chat(f"{DOCUMENT * 20}\n\n{Q}", tokenprune={"method": "broken"}), fail="closed")
        assert response.status_code == 400
        message = response.json()["error"]["message"]
        prompt = get_counter().count(DOCUMENT * 20)
        assert "4096" in message
        assert any(str(tokens) in message for tokens in range(prompt, prompt + 100))
        assert not stub.requests

    def test_deadline(self, post, stub):
        body = json.dumps(chat()).encode()
        start = time.monotonic()
        response = post(body, headers={"x-tokenprune-method": "slow"}, timeout_s=0.2)
        assert time.monotonic() - start < 1.2
        assert response.headers["x-tokenprune-decision"] == "failed:timeout"
        assert stub.last.body == body

    def test_deadline_with_a_prompt_too_long(self, post, stub):
        too_long = chat(f"{DOCUMENT * 20}\n\n{Q}", tokenprune={"method": "slow"})
        response = post(too_long, timeout_s=0.2, fail="closed")
        assert response.status_code == 400
        assert "longer than 0.2 s" in response.json()["error"]["message"]

    @pytest.mark.parametrize("by_far", [True, False])
    def test_no_time_is_spent_on_counting_after_the_deadline(
        self, stub, serve, stand_in, monkeypatch, by_far
    ):
        def count_slowly(*_):
            time.sleep(3)

        monkeypatch.setattr(Room, "prompt", property(count_slowly))
        url = serve(create_app(stand_in(timeout_s=0.2), stub.url))
        content = f"Context:\n{DOCUMENT * (40 if by_far else 1)}\n\nQuestion: {Q}"
        response = httpx.post(url + URL, json=chat(content, tokenprune={"method": "slow"}), timeout=20)
        assert response.headers["x-tokenprune-decision"] == "failed:timeout"
        assert float(response.headers["x-tokenprune-ms"]) < 1400
        assert response.status_code == (400 if by_far else 200)

    def test_overload_skips(self, stub, serve, stand_in):
        url = serve(create_app(stand_in(workers=1, queue=0), stub.url))
        decisions = []

        def send():
            response = httpx.post(url + URL, json=chat(tokenprune={"method": "slow"}), timeout=20)
            decisions.append(response.headers["x-tokenprune-decision"])

        threads = [threading.Thread(target=send) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(decisions) == ["pruned", "skipped:overloaded", "skipped:overloaded"]

    @pytest.mark.parametrize("fail", ["open", "closed"])
    def test_overload_rescues_what_is_too_long(self, stub, serve, stand_in, fail):
        """The upstream would refuse it; a prompt that fits goes as it is."""
        app = create_app(stand_in(workers=1, queue=0, fail=fail, timeout_s=15), stub.url)
        url = serve(app)
        until = threading.Event()

        async def occupy():
            app.runtime.pool.submit(until.wait).cancel()  # which does not end it once it runs

        contents = [f"Context:\n{DOCUMENT * n}\n\nQuestion: {Q}" for n in (1, 20)]
        replies = []
        try:
            asyncio.run(occupy())
            assert app.runtime.pool.waiting == 1
            for content in contents:
                reply = httpx.post(url + URL, json=chat(content), timeout=20)
                replies.append((reply.headers["x-tokenprune-decision"], said(stub)))
        finally:
            until.set()
        assert replies[0] == ("skipped:overloaded", contents[0])
        decision, cut = replies[1]
        if fail == "closed":
            assert (decision, cut) == ("skipped:overloaded", contents[1])
            return
        assert decision == "pruned"
        assert cut.startswith("Context:\n") and cut.endswith(f"Question: {Q}")
        assert FACT in cut and 2000 < get_counter().count(cut) < 4096

    @pytest.mark.parametrize("length", [1, 20])
    def test_what_cannot_be_counted_in_an_overload_goes_as_it_is(self, stub, serve, length):
        app = create_app(Config(tokenizer="no-such-tokenizer"), stub.url)
        app.runtime.pool.max_waiting = 0
        body = chat(f"Context:\n{DOCUMENT * length}\n\nQuestion: {Q}")
        reply = httpx.post(serve(app) + URL, json=body, timeout=20)
        assert (reply.status_code, sent(stub)) == (200, body)
        assert reply.headers["x-tokenprune-decision"] == "skipped:overloaded"

    def test_client_that_leaves_while_a_prompt_is_rescued(self, stub, serve, stand_in):
        app = create_app(stand_in(), stub.url)
        app.runtime.pool.max_waiting = 0
        begun, ended = threading.Event(), threading.Event()

        def rescue(request):
            begun.set()
            if is_given_up(20):
                ended.set()

        app.runtime.rewriter.rescue = rescue
        host, port = serve(app).removeprefix("http://").split(":")
        body = json.dumps(chat(f"Context:\n{DOCUMENT * 20}\n\nQuestion: {Q}")).encode()
        head = f"POST {URL} HTTP/1.1\r\nhost: h\r\ncontent-length: {len(body)}\r\n\r\n"
        with socket.create_connection((host, int(port))) as sock:
            sock.sendall(head.encode() + body)
            assert begun.wait(10)
        assert ended.wait(5)
        assert not [request for request in stub.requests if request.target == URL.encode()]

    def test_client_that_leaves_while_we_prune(self, stub, serve, stand_in):
        config = stand_in()
        host, port = serve(create_app(config, stub.url)).removeprefix("http://").split(":")
        calls = len(config.calls)
        body = json.dumps(chat(tokenprune={"method": "slow"})).encode()
        with socket.create_connection((host, int(port))) as sock:
            sock.sendall(
                b"POST "
                + URL.encode()
                + b" HTTP/1.1\r\nhost: h\r\ncontent-length: %d\r\n\r\n" % len(body)
                + body
            )
            deadline = time.monotonic() + 5
            while len(config.calls) == calls and time.monotonic() < deadline:
                time.sleep(0.02)
        time.sleep(2)
        assert not stub.requests

    @pytest.mark.parametrize(
        ("path", "body"),
        [
            (URL, chat(tokenprune={"method": "patient"})),
            ("/v1/prune", {"query": "?", "documents": [DOCUMENT], "method": "patient"}),
        ],
    )
    def test_work_that_nobody_waits_for_ends(self, stub, serve, stand_in, path, body):
        """The only thread is free for the next request: long before the work would have ended."""
        config = stand_in(workers=1, queue=0)
        app = create_app(config, stub.url)
        host, port = serve(app).removeprefix("http://").split(":")
        raw = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nhost: h\r\ncontent-type: application/json\r\n"
        with socket.create_connection((host, int(port))) as sock:
            sock.sendall(f"{head}content-length: {len(raw)}\r\n\r\n".encode() + raw)
            wait_for(lambda: app.runtime.pool.waiting == 1)
        wait_for(lambda: app.runtime.pool.waiting == 0, seconds=8)
        assert not stub.requests

    @pytest.mark.parametrize("path", [URL, "/v1/prune"])
    def test_work_that_is_late_ends(self, stub, serve, stand_in, path):
        app = create_app(stand_in(workers=1, queue=0, timeout_s=0.2), stub.url)
        url = serve(app)
        body = {"query": "?", "documents": [DOCUMENT], "method": "patient"}
        reply = httpx.post(url + path, json=chat(tokenprune={"method": "patient"}) if path == URL else body)
        if path == URL:
            assert reply.headers["x-tokenprune-decision"] == "failed:timeout"
        else:
            assert reply.status_code == 504
        wait_for(lambda: app.runtime.pool.waiting == 0, seconds=8)

    @pytest.mark.parametrize("stream", [True, False])
    @pytest.mark.parametrize("after_first_byte", [True, False])
    @pytest.mark.parametrize("content", [PROMPT, "Hi"])
    def test_client_that_leaves_later(self, stub, serve, stand_in, stream, after_first_byte, content):
        async def script(request, writer):
            if after_first_byte:
                await stub.begin_chunked(writer, b"text/event-stream" if stream else b"application/json")
                await stub.chunk(writer, b"data: 1\n\n")
            await asyncio.sleep(30)

        stub.script = script
        host, port = serve(create_app(stand_in(), stub.url)).removeprefix("http://").split(":")
        body = json.dumps(chat(content, stream=stream)).encode()
        with socket.create_connection((host, int(port))) as sock:
            sock.sendall(
                b"POST "
                + URL.encode()
                + b" HTTP/1.1\r\nhost: h\r\ncontent-length: %d\r\n\r\n" % len(body)
                + body
            )
            assert stub.arrived.wait(5)
            if after_first_byte:
                assert sock.recv(10)
            time.sleep(0.05)
            assert not stub.last.closed.is_set()
        assert stub.last.closed.wait(1.5)


class TestRescue:
    LONG = f"{DOCUMENT}\n" * 20 + f"\n{Q}"

    def budget(self, config):
        return config.calls[-1][2]

    def test_an_overlong_prompt_is_pruned_to_what_fits(self, stub, serve, stand_in):
        config = stand_in()
        url = serve(create_app(config, stub.url))
        response = httpx.post(url + URL, json=chat(self.LONG, max_tokens=100))
        assert response.headers["x-tokenprune-decision"] == "pruned"
        assert 3700 < self.budget(config).max_tokens < 4096 - 100
        assert Q in said(stub)

    def test_a_prompt_that_fits_by_the_models_own_count_goes_whole(self, post, stub):
        """The tokenizer of the configuration makes more tokens of it than the served model's."""
        task = chat(f"{DOCUMENT}\n" * 20 + "\nSummarize the whole text.")
        stub.counts = 3000
        response = post(task)
        assert (response.headers["x-tokenprune-decision"], sent(stub)) == ("skipped:whole-text", task)

    def test_how_much_goes_follows_the_models_own_count(self, stub, serve, stand_in):
        ours = get_counter().count(self.LONG)
        for stub.counts in (8000, 16_000):
            config = stand_in()
            httpx.post(serve(create_app(config, stub.url)) + URL, json=chat(self.LONG, max_tokens=100))
            assert self.budget(config).max_tokens == pytest.approx(ours * 3900 / stub.counts, rel=0.05)

    def test_the_unpacked_size_counts(self, stub, serve, stand_in):
        config = stand_in()
        body = gzip.compress(json.dumps(chat(self.LONG)).encode())
        httpx.post(
            serve(create_app(config, stub.url)) + URL, content=body, headers={"content-encoding": "gzip"}
        )
        assert len(body) < 1000
        assert self.budget(config).max_tokens < 4096

    @pytest.mark.parametrize(
        ("options", "limit"),
        [({"max_tokens": 50}, 50), ({"max_tokens": 99_999}, 3800), ({"keep_ratio": 0.9}, 3800)],
    )
    def test_a_budget_is_cut_to_what_fits(self, stub, serve, stand_in, options, limit):
        config = stand_in()
        httpx.post(serve(create_app(config, stub.url)) + URL, json=chat(self.LONG, tokenprune=options))
        assert self.budget(config).max_tokens <= limit

    @pytest.mark.parametrize("method", ["broken", "slow"])
    def test_a_prompt_whose_pruning_fails_is_cut_without_a_model(self, post, stub, method):
        response = post(chat(self.LONG, tokenprune={"method": method}), timeout_s=1)
        assert (response.status_code, response.headers["x-tokenprune-decision"]) == (200, "pruned")
        assert FACT in said(stub)
        assert said(stub).endswith(Q)
        assert get_counter().count(said(stub)) < 3840

    @pytest.mark.parametrize("task", ["Summarize the whole text.", ""])
    def test_a_prompt_without_a_question_is_cut_to_what_fits(self, post, stub, task):
        response = post(chat(f"{DOCUMENT}\n" * 20 + f"\n{task}"))
        assert response.headers["x-tokenprune-decision"] == "pruned"
        assert said(stub).rstrip().endswith(task or NOISE)
        assert 3000 < get_counter().count(said(stub)) < 3840

    def test_a_budget_holds_without_a_question(self, post, stub):
        response = post(chat(DOCUMENT, tokenprune={"max_tokens": 100}))
        assert response.headers["x-tokenprune-decision"] == "pruned"
        assert 50 < get_counter().count(said(stub)) <= 100
        summary = chat(f"{DOCUMENT}\n\nSummarize the whole text.")
        response = post(summary | {"tokenprune": {"max_tokens": 100}})
        assert response.headers["x-tokenprune-decision"] == "skipped:whole-text"
        assert sent(stub) == summary

    def test_what_fits_has_no_budget(self, stub, serve, stand_in):
        config = stand_in()
        httpx.post(serve(create_app(config, stub.url)) + URL, json=chat())
        assert self.budget(config) is None

    def test_settings_win_over_the_upstream(self, stub, serve, stand_in):
        config = stand_in(max_model_len=400)
        httpx.post(serve(create_app(config, stub.url)) + URL, json=chat(max_completion_tokens=50))
        assert self.budget(config).max_tokens < 350

    def test_a_frame_that_does_not_fit_goes_to_the_upstream(self, stub, serve, stand_in):
        url = serve(create_app(stand_in(max_model_len=300), stub.url))
        body = chat()
        body["messages"].insert(0, {"role": "system", "content": DOCUMENT})
        response = httpx.post(url + URL, json=body)
        assert response.headers["x-tokenprune-decision"] == "skipped:no-room"
        assert sent(stub) == body

    @pytest.mark.parametrize(
        "models", [b"", b"[]", b'{"data":[{"id":"m"}]}', b'{"data":[1]}', b'{"data":null}']
    )
    def test_odd_models_answers_mean_no_limit(self, stub, serve, stand_in, models):
        stub.models = models
        config = stand_in()
        response = httpx.post(serve(create_app(config, stub.url)) + URL, json=chat(self.LONG))
        assert response.headers["x-tokenprune-decision"] == "pruned"
        assert self.budget(config) is None

    async def test_lengths_are_asked_once(self):
        asked = []

        async def app(scope, receive, send):
            asked.append(scope)
            await send({"type": "http.response.start", "status": 200, "headers": []})
            body = b'{"data":[{"id":"a","max_model_len":10},{"id":"b","max_model_len":20}]}'
            await send({"type": "http.response.body", "body": body})

        upstream = UpstreamInfo(app, None, 60)
        key = [(b"authorization", b"Bearer x")]
        assert await asyncio.gather(
            *(upstream.max_model_len(name, key) for name in ("a", "b", "c", None))
        ) == [
            10,
            20,
            None,
            None,
        ]
        assert len(asked) == 1
        assert asked[0]["headers"] == key


async def test_configuration_from_the_environment(monkeypatch, tmp_path):
    path = tmp_path / "tokenprune.yaml"
    path.write_text("server:\n  min_document_tokens: 77\n")
    monkeypatch.setenv("TOKENPRUNE_CONFIG", str(path))
    monkeypatch.setenv("TOKENPRUNE_SERVER_WORKERS", "3")
    middleware = PruneMiddleware(UpstreamApp("http://127.0.0.1:1"))
    assert middleware.runtime.settings.min_document_tokens == 77
    assert middleware.runtime.settings.workers == 3
