"""The gate between a real client and an upstream whose prefix cache and prefill time are known."""

import hashlib
import itertools
import json
import random
import re
import statistics

import httpx
import pytest

from tokenprune.config import Config
from tokenprune.errors import ConfigError
from tokenprune.receipt import PruneResult, Receipt, UnitRecords
from tokenprune.tokens import get_counter
from tokenprune_server.admin import create_admin_app
from tokenprune_server.app import ServerApp, create_app
from tokenprune_server.curve import Curve
from tokenprune_server.gate import Gate, is_explicit
from tokenprune_server.middleware import PruneMiddleware
from tokenprune_server.options import Options
from tokenprune_server.protocols import BY_ROUTE
from tokenprune_server.proxy import UpstreamApp
from tokenprune_server.runtime import Runtime
from tokenprune_server.settings import ServerSettings

BLOCK = 16
URL = "/v1/chat/completions"
_TOKEN = re.compile(r"\w+|[^\w\s]")
_WORDS = "harbour market lamp keeper stone river garden window silver copper engine island bridge".split()


class Clock:
    """Time that passes only where something is said to take time, so that no test depends on the machine."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class CachingUpstream:
    """ASGI app: the time to its first token is ``curve`` of the tokens that it has not cached.

    Tokens are words and marks; whole blocks of 16 are cached by the hash of everything up to their end, as
    vLLM does it. ``uncached`` keeps the tokens it had to prefill for each request, ``bodies`` the requests.
    """

    def __init__(self, curve=None, *, caches=True, reports=True):
        self.curve = curve or Curve(0.03, 1.9e-3)  # as vLLM measures on two cores
        self.clock = Clock()
        self.caches, self.reports = caches, reports
        self.blocks, self.uncached, self.bodies = set(), [], []

    def prefill(self, body) -> tuple[int, int]:
        """Prompt tokens and cached ones; the prompt is cached from now on."""
        messages = body.get("messages", ())
        prompt = "".join([*body.get("prompt", ""), *(f"<{m['role']}>{m['content']}" for m in messages)])
        tokens = _TOKEN.findall(prompt)
        key, cached, hit = b"", 0, True
        for at in range(0, len(tokens) - BLOCK + 1, BLOCK):
            key = hashlib.sha256(key + " ".join(tokens[at : at + BLOCK]).encode()).digest()
            hit = hit and key in self.blocks
            cached += BLOCK if hit else 0
            if self.caches:
                self.blocks.add(key)
        cached = min(cached, len(tokens) - 1)
        self.bodies.append(body)
        self.uncached.append(len(tokens) - cached)
        return len(tokens), cached

    async def __call__(self, scope, receive, send):
        if scope["type"] == "lifespan":
            while (await receive())["type"] != "lifespan.shutdown":
                await send({"type": "lifespan.startup.complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        if scope["path"] == "/v1/models":
            await self.answer(send, {"data": [{"id": "m", "max_model_len": 16384}]})
            return
        raw, more = b"", True
        while more:
            message = await receive()
            raw, more = raw + message.get("body", b""), message.get("more_body", False)
        body = json.loads(raw)
        prompt, cached = self.prefill(body)
        self.clock.now += self.curve.seconds(prompt - cached)
        usage = {"prompt_tokens": prompt, "completion_tokens": 2, "prompt_tokens_details": None}
        if self.reports and cached:
            usage["prompt_tokens_details"] = {"cached_tokens": cached}
        if body.get("stream"):
            await self.stream(send, body, usage)
        else:
            choice = {"message": {"role": "assistant", "content": 'A word. "usage": {"prompt_tokens": 7}'}}
            await self.answer(send, {"choices": [choice], "usage": usage})

    async def answer(self, send, content):
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps(content).encode()})

    async def stream(self, send, body, usage):
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        events = [{"choices": [{"delta": {"content": word}}]} for word in ("A", " word.")]
        if (body.get("stream_options") or {}).get("include_usage"):
            events.append({"choices": [], "usage": usage})
        for event in events:
            data = b"data: " + json.dumps(event).encode() + b"\n\n"
            await send({"type": "http.response.body", "body": data, "more_body": True})
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})


def document(n, sentences=110):
    """About 12 tokens a sentence; the k-th of them alone holds ``mark<n>x<k>``."""
    words = random.Random(n)
    pick = lambda: words.choice(_WORDS)  # noqa: E731
    return "\n".join(f"The {pick()} of mark{n}x{k} saw a {pick()} by the {pick()}." for k in range(sentences))


def asks(n, k):
    return f"What did mark{n}x{k} see?"


def prompt(text, question):
    return f"Context:\n{text}\n\nQuestion: {question}"


def user(content):
    return {"role": "user", "content": content}


def chat(*messages, **more):
    return {"model": "m", "messages": list(messages), **more}


def about(n, k, **more):
    return chat(user(prompt(document(n), asks(n, k))), **more)


class MarkPipeline:
    """Keeps the lines that hold a mark of the question; takes 40 ms."""

    def __init__(self, name, clock):
        self.name, self.clock = name, clock

    def prune(self, query, documents, budget=None):
        self.clock.now += 0.04
        if self.name == "broken":
            raise ZeroDivisionError("the pruner is broken")
        marks = re.findall(r"mark\w+", query) if self.name == "default" else []
        out = [
            d.with_text("\n".join(x for x in d.text.split("\n") if any(f"{m} " in x for m in marks)))
            for d in documents
        ]
        counter = get_counter()
        before, after = (counter.count_many([d.text for d in some]).tolist() for some in (documents, out))
        limit = budget.limit(sum(before)) if budget is not None else None
        assert limit is None or sum(after) <= limit, "the tests ask for enough"
        receipts = [
            Receipt(d.id, UnitRecords.whole(len(d.text), b, kept=True, stage="marks", reason="test"), b, a)
            for d, b, a in zip(documents, before, after, strict=True)
        ]
        originals = {d.id: d for d in documents}
        return PruneResult(out, receipts, sum(before), sum(after), 0.0, {}, originals)


class MarkConfig:
    tokenizer = "smollm2-135m"

    def __init__(self, clock, **server):
        self.clock = clock
        self.server = {"min_document_tokens": 50, "timeout_s": 120.0, **server}
        self.pipelines = {}

    def build(self, name="default", output=None):
        return MarkPipeline(name, self.clock)


class Proxy:
    """The proxy in front of a caching upstream; keeps the decision on every request."""

    def __init__(self, upstream, url, client):
        self.upstream, self.url, self.client = upstream, url, client
        self.decisions = []

    def send(self, body, **headers):
        response = self.client.post(self.url + URL, json=body, headers=headers)
        assert response.status_code == 200
        self.decisions.append(response.headers["x-tokenprune-decision"])
        return response

    @property
    def last(self):
        return self.upstream.bodies[-1]


@pytest.fixture
def start(serve):
    with httpx.Client(timeout=150) as client:

        def begin(upstream=None, config=None, **settings):
            upstream = upstream or CachingUpstream()
            config = config or MarkConfig(upstream.clock, **settings)
            runtime = Runtime(config, clock=upstream.clock)
            inner = UpstreamApp(serve(upstream))
            app = ServerApp(PruneMiddleware(inner, runtime=runtime), create_admin_app(runtime, inner))
            return Proxy(upstream, serve(app), client)

        yield begin


def unpruned(bodies):
    """Tokens that are prefilled when the same requests go straight to the upstream."""
    upstream = CachingUpstream()
    for body in bodies:
        upstream.prefill(body)
    return upstream.uncached


FOUR_QUESTIONS = [about(n, 7 * k + 3) for n in range(4) for k in range(4)]
NEW_EACH_TIME = [about(100 + n, 5) for n in range(8)]


def growing_chat():
    """Six turns; the first, third and fifth bring a document."""
    bodies, messages = [], []
    for n in range(6):
        content = (
            "And what is the colour of the castle?"
            if n % 2
            else prompt(document(50 + n, 60), asks(50 + n, 3))
        )
        messages = [*messages, user(content)]
        bodies.append(chat(*messages))
        messages = [*messages, {"role": "assistant", "content": "It saw a castle."}]
    return bodies


class TestThreeSituations:
    """The median over what is prefilled stands for that of the time to the first token: it decides it."""

    def run(self, start, bodies, **settings):
        proxy = start(**settings)
        for body in bodies:
            proxy.send(body)
        return proxy

    def test_documents_with_four_questions(self, start):
        direct = unpruned(FOUR_QUESTIONS)
        without = self.run(start, FOUR_QUESTIONS, gate="off").upstream.uncached
        proxy = self.run(start, FOUR_QUESTIONS)
        uncached = proxy.upstream.uncached
        assert statistics.median(uncached) <= 1.05 * statistics.median(direct)
        assert statistics.median(without) > 3 * statistics.median(direct), "what the gate is there for"
        # Nobody knows at the first sight; from the second question on the document is cached.
        assert proxy.decisions[:2] == ["pruned", "skipped:shared"]
        assert uncached[:2] == [without[0], direct[0]]
        assert uncached[2:4] == direct[2:4]
        # An application that asks again and again is known after a few documents.
        assert proxy.decisions[-4:] == ["skipped:reuse-expected"] + ["skipped:cached"] * 3
        assert uncached[-4:] == direct[-4:]

    def test_one_document_when_the_operator_knows_that_it_comes_again(self, start):
        bodies = FOUR_QUESTIONS[:4]
        proxy = self.run(start, bodies, reuse_prior=1.0)
        assert proxy.upstream.uncached == unpruned(bodies)
        assert proxy.decisions[0] == "skipped:reuse-expected"

    def test_a_growing_chat(self, start):
        bodies = growing_chat()
        proxy = self.run(start, bodies)
        assert statistics.median(proxy.upstream.uncached) <= statistics.median(unpruned(bodies))
        assert sum(proxy.upstream.uncached) < sum(unpruned(bodies)) / 4
        assert set(proxy.decisions) == {"pruned"}

    def test_a_new_document_each_time(self, start):
        proxy = self.run(start, NEW_EACH_TIME)
        assert set(proxy.decisions) == {"pruned"}
        assert 3 * statistics.median(proxy.upstream.uncached) < statistics.median(unpruned(NEW_EACH_TIME))

    def test_from_shared_documents_to_new_ones(self, start):
        proxy = self.run(start, [*FOUR_QUESTIONS, *NEW_EACH_TIME])
        assert proxy.decisions[-4:] == ["pruned"] * 4

    def test_the_arithmetic_of_the_cache_study(self):
        """Measured: whole 2559 ms, from the cache 190 ms, pruned 1150 ms.

        Whole by the second question is one hit less than unpruned: the mean is worse by the pruned request,
        and of a single document's four questions only the lower median is a hit.
        """
        direct, gated = [2559, 190, 190, 190], [1150, 2559, 190, 190]
        assert statistics.mean(gated) - statistics.mean(direct) == (1150 - 190) / 4
        assert statistics.median_low(gated) == statistics.median_low(direct) == 190
        assert statistics.median(gated) == 670
        # Known from the third document on at the latest, the median of all is a hit as well.
        assert statistics.median(2 * gated + direct) == 190


def begins_with(later, earlier):
    return later["messages"][: len(earlier["messages"])] == earlier["messages"]


class TestTurns:
    def test_what_was_sent_stays_byte_for_byte(self, start):
        proxy = start()
        for body in growing_chat():
            proxy.send(body)
        sent = proxy.upstream.bodies
        assert all(begins_with(later, earlier) for earlier, later in itertools.pairwise(sent))

    def test_without_the_gate_it_does_not(self, start):
        proxy = start(gate="off")
        for body in growing_chat():
            proxy.send(body)
        sent = proxy.upstream.bodies
        assert not all(begins_with(later, earlier) for earlier, later in itertools.pairwise(sent))

    def test_system_tools_and_answers_are_never_touched(self, start):
        proxy = start()
        tools = [{"type": "function", "function": {"name": "get", "description": document(9)}}]
        system = {"role": "system", "content": document(8)}
        said = {"role": "assistant", "content": document(7)}
        body = chat(system, user(prompt(document(1), asks(1, 2))), said, user(asks(1, 3)), tools=tools)
        proxy.send(body)
        assert proxy.last["tools"] == tools
        assert [proxy.last["messages"][n] for n in (0, 2, 3)] == [body["messages"][n] for n in (0, 2, 3)]

    def test_tool_output_of_earlier_steps(self, start):
        proxy = start()
        question = user(asks(1, 2))
        call = {"role": "assistant", "content": None, "tool_calls": [{"id": "c", "function": {"name": "f"}}]}
        messages = [question]
        for n in (1, 2, 3):
            messages += [call, {"role": "tool", "tool_call_id": "c", "content": document(n, 60)}]
            proxy.send(chat(*messages))
            assert len(proxy.last["messages"][-1]["content"]) < len(messages[-1]["content"]) / 5
        assert proxy.last["messages"][2] == proxy.upstream.bodies[0]["messages"][2]

    def test_what_went_unpruned_stays_so(self, start):
        proxy = start()
        first = user(f"Context:\n{document(1)}\n\nQuestion: Summarize the text.")
        proxy.send(chat(first))
        proxy.send(chat(first, {"role": "assistant", "content": "Hm."}, user(asks(1, 3))))
        assert proxy.last["messages"][0] == first
        assert proxy.decisions == ["skipped:whole-text", "skipped:cached"]

    @pytest.mark.parametrize("how", [{"enabled": False}, {"method": "broken"}])
    def test_whatever_the_reason(self, start, how):
        proxy = start()
        first = user(prompt(document(1), asks(1, 2)))
        proxy.send(chat(first, tokenprune=how))
        proxy.send(chat(first, {"role": "assistant", "content": "Hm."}, user(asks(1, 3))))
        assert proxy.last["messages"][0] == first

    def test_a_task_about_all_of_the_text_gets_it(self, start):
        proxy = start()
        first, answer = user(prompt(document(1), asks(1, 2))), {"role": "assistant", "content": "Hm."}
        proxy.send(chat(first))
        body = chat(first, answer, user("Please summarize the text."))
        proxy.send(body)
        assert proxy.last == body
        longer = chat(*body["messages"], answer, user(asks(1, 4)))
        proxy.send(longer)
        assert proxy.last["messages"][0] == first, "as it was sent last"

    def test_branches_have_their_own_past(self, start):
        proxy = start()
        one, two = (user(prompt(document(1), asks(1, k))) for k in (2, 60))
        answer = {"role": "assistant", "content": "Hm."}
        proxy.send(chat(one))
        proxy.send(chat(two))
        whole = proxy.last["messages"][0]
        proxy.send(chat(one, answer, user("Why?")))
        assert proxy.last["messages"][0] == proxy.upstream.bodies[0]["messages"][0]
        proxy.send(chat(two, answer, user("Why?")))
        assert proxy.last["messages"][0] == whole == two


class TestRepeats:
    def test_are_sent_as_they_were(self, start):
        proxy = start()
        first, second = (proxy.send(about(1, 5)) for _ in range(2))
        assert proxy.upstream.bodies[0] == proxy.upstream.bodies[1]
        assert proxy.decisions == ["pruned", "pruned"]
        for name in ("tokens-before", "tokens-after", "receipt"):
            assert first.headers[f"x-tokenprune-{name}"] == second.headers[f"x-tokenprune-{name}"]

    def test_twice_pruned_is_once_pruned(self, start):
        """Idempotence: what comes out goes through unchanged."""
        proxy = start()
        proxy.send(about(1, 5))
        once = proxy.last
        proxy.send(once)
        assert proxy.last == once

    def test_a_second_proxy_sends_the_same(self, start):
        bodies = [*growing_chat(), *FOUR_QUESTIONS[:4]]
        sent = []
        for _ in range(2):
            proxy = start()
            for body in bodies:
                proxy.send(body)
            sent.append(proxy.upstream.bodies)
        assert sent[0] == sent[1]


class TestSharedDocuments:
    def test_new_passages_behind_a_shared_text_are_pruned(self, start):
        proxy = start()
        for n in (1, 2, 3):
            passages = f"[1]\n{document(70, 60)}\n\n[2]\n{document(n, 60)}"
            proxy.send(chat(user(prompt(passages, asks(n, 5)))))
        content = proxy.last["messages"][0]["content"]
        assert document(70, 60) in content
        assert "mark3x5 " in content
        assert "mark3x6 " not in content
        assert proxy.upstream.uncached[-1] < 60

    def test_passages_at_other_places_are_new(self, start):
        """Retrieval brings popular passages again and again, and no prefix cache can hold them."""
        proxy = start()
        for n in (1, 2, 3):
            passages = f"[1]\n{document(n, 60)}\n\n[2]\n{document(70, 60)}"
            proxy.send(chat(user(prompt(passages, asks(n, 5)))))
        assert proxy.decisions == ["pruned"] * 3
        assert max(proxy.upstream.uncached) < 100

    def test_cache_salt_and_model_separate(self, start):
        proxy = start()
        proxy.send(about(1, 2, cache_salt="a"))
        proxy.send(about(1, 3, cache_salt="b"))
        proxy.send({**about(1, 4, cache_salt="a"), "model": "n"})
        assert proxy.decisions == ["pruned"] * 3
        proxy.send(about(1, 5, cache_salt="a"))
        assert proxy.decisions[-1] == "skipped:shared"
        assert proxy.last["cache_salt"] == "a"

    def test_a_client_that_marks_its_prefix(self, start):
        proxy = start()
        part = {"type": "text", "text": document(1), "cache_control": {"type": "ephemeral"}}
        body = chat(user([part]), {"role": "assistant", "content": "Read."}, user(asks(1, 5)))
        proxy.send(body)
        assert proxy.last == body

    def test_pages_lose_what_no_question_needs(self, start):
        links = "".join(f'<li><a href="/{n}">Section number {n}</a></li>' for n in range(60))
        prose = "".join(
            f"<p>The harbour of mark1x{n} saw a lamp, a keeper and a stone bridge by the old river.</p>"
            for n in range(40)
        )
        page = f"<html><body><nav><ul>{links}</ul></nav><main><h1>Marks</h1>{prose}</main></body></html>"
        pipelines = {"default": {"pruners": ["htmlrag-bm25"], "budget": {"max_tokens": 150}}}
        proxy = start(config=Config(pipelines=pipelines, server={"reuse_prior": 0.0}))
        responses = [proxy.send(chat(user(f"{page}\n\n{asks(1, k)}"))) for k in (2, 3, 4)]
        first, second, third = (body["messages"][0]["content"] for body in proxy.upstream.bodies)
        assert proxy.decisions == ["pruned"] * 3
        assert "Section number 7" not in second
        assert all(f"mark1x{n} " in second for n in range(40)), "every question can be answered"
        assert first.count("mark1x") < 20
        assert second.removesuffix(asks(1, 3)) == third.removesuffix(asks(1, 4))
        assert proxy.upstream.uncached[2] < 2 * BLOCK
        assert "x-tokenprune-receipt" in responses[1].headers

    @pytest.mark.parametrize(("name", "word"), [("bm25-sentences", "question"), ("magic", "magic")])
    def test_only_methods_without_a_question(self, stub, name, word):
        with pytest.raises(ConfigError, match=word):
            create_app(Config(server={"shared_pipeline": name}), stub.url)


class TestExplicitRequests:
    @pytest.mark.parametrize(
        "options",
        [
            {"enabled": True},
            {"max_tokens": 60},
            {"keep_ratio": 0.1},
            {"method": "default"},
            {"output": "text"},
        ],
    )
    def test_are_obeyed(self, start, options):
        proxy = start(prefill_tokens_per_s=1e9)
        for k in (2, 3, 4):
            proxy.send(about(1, k, tokenprune=options))
            assert f"mark1x{k} " in proxy.last["messages"][0]["content"]
            assert f"mark1x{k + 1} " not in proxy.last["messages"][0]["content"]
        assert proxy.decisions == ["pruned"] * 3

    @pytest.mark.parametrize("options", [{}, {"pipeline": None}, {"enabled": False}])
    def test_nothing_asked_is_not_explicit(self, options):
        assert not is_explicit(Options(**options))

    def test_another_method_is_another_request(self, start):
        proxy = start()
        proxy.send(about(1, 2))
        proxy.send(about(1, 2, tokenprune={"method": "drop-all"}))
        assert "mark1x2 saw" not in proxy.last["messages"][0]["content"]

    def test_a_budget_holds_for_all_turns(self, start):
        proxy = start()
        options = {"max_tokens": 60}
        messages = []
        for n in range(3):
            messages.append(user(prompt(document(n, 60), asks(n, 3))))
            response = proxy.send(chat(*messages, tokenprune=options))
            assert int(response.headers["x-tokenprune-tokens-after"]) <= 60
            assert f"mark{n}x3 " in proxy.last["messages"][-1]["content"]
            messages.append({"role": "assistant", "content": "Hm."})

    def test_a_prompt_too_long_is_pruned_whatever_it_costs(self, start):
        proxy = start(prefill_tokens_per_s=1e9, max_model_len=1000)
        proxy.send(about(1, 2))
        proxy.send(about(1, 3))
        assert proxy.decisions == ["pruned", "pruned"]


class TestWorthIt:
    def test_at_first_four_hundred_tokens_are(self, start):
        proxy = start()
        response = proxy.send(chat(user(prompt(document(1, 24), asks(1, 3)))))
        assert 300 < int(response.headers["x-tokenprune-tokens-before"]) <= 400
        assert proxy.decisions == ["pruned"]

    def test_a_fast_upstream_is_left_alone(self, start):
        proxy = start(CachingUpstream(Curve(0.05, 1e-8)))
        for n in range(4):
            proxy.send(about(n, 3))
            proxy.send(chat(user(prompt(document(n + 20), "Summarize the text."))))
        proxy.send(about(11, 3))
        assert proxy.decisions == ["pruned", *proxy.decisions[1:-1], "skipped:not-worth-it"]
        assert proxy.last == about(11, 3)
        model = proxy.client.get(f"{proxy.url}/v1/cost-model").json()["models"]["m"]
        assert model["prefill"]["per_token_s"] < 2e-5

    def test_an_upstream_without_a_cache_is_noticed(self, start):
        proxy = start(CachingUpstream(caches=False, reports=False))
        for k in range(8):
            proxy.send(about(1, k))
        assert proxy.decisions[:2] == ["pruned", "skipped:shared"]
        assert proxy.decisions[-1] == "pruned"

    def test_a_silent_upstream_with_a_cache_is_noticed(self, start):
        proxy = start(CachingUpstream(reports=False))
        for k in range(6):
            proxy.send(about(1, k, stream=True))
        assert proxy.decisions[2:] == ["skipped:shared"] + ["skipped:cached"] * 3 or set(
            proxy.decisions[2:]
        ) == {"skipped:cached"}
        assert max(proxy.upstream.uncached[2:]) < 2 * BLOCK

    def test_streams_stay_as_they_are(self, start):
        proxy = start()
        body = about(1, 3, stream=True, stream_options={"include_usage": True})
        through = proxy.send(body).content
        direct = httpx.post(proxy.url + "/upstream" + URL, json=proxy.last).content
        cut = b'"prompt_tokens_details"'
        assert through.split(cut)[0] == direct.split(cut)[0]
        assert through.endswith(b"data: [DONE]\n\n")

    def test_off_prunes_always_and_learns_nothing(self, start):
        proxy = start(gate="off")
        for k in (2, 3):
            proxy.send(about(1, k))
        assert proxy.decisions == ["pruned", "pruned"]
        shown = proxy.client.get(f"{proxy.url}/v1/cost-model").json()
        assert (shown["gate"], shown["models"]) == ("off", {})

    def test_predictions_are_compared_with_what_happened(self, start):
        proxy = start()
        for body in [*NEW_EACH_TIME[:3], *FOUR_QUESTIONS[:4]]:
            proxy.send({**body, "stream": True, "stream_options": {"include_usage": True}})
        metrics = proxy.client.get(f"{proxy.url}/metrics").text
        values = dict(line.rsplit(" ", 1) for line in metrics.splitlines() if not line.startswith("#"))
        assert float(values['tokenprune_saved_seconds_count{source="observed"}']) == 4
        assert float(values['tokenprune_saved_seconds_sum{source="observed"}']) > 0
        reported = float(values['tokenprune_cached_tokens_total{source="reported"}'])
        assert reported > 2000
        assert float(values['tokenprune_cached_tokens_total{source="predicted"}']) > reported / 2


def test_completions(start):
    proxy = start()
    texts = [prompt(document(n, 60), asks(n, 3)) for n in (1, 2)]
    for body in ({"prompt": texts}, {"prompt": [texts[0]]}, {"prompt": texts}):
        response = proxy.client.post(proxy.url + "/v1/completions", json={"model": "m", **body})
        assert response.headers["x-tokenprune-decision"] == "pruned"
    sent = [body["prompt"] for body in proxy.upstream.bodies]
    assert sent[0] == sent[2]
    assert sent[1] == sent[0][:1]


def test_turns_of_the_protocols():
    body = chat(
        {"role": "system", "content": "Be brief."},
        user([{"type": "text", "text": "A", "cache_control": {}}, {"type": "image_url", "image_url": {}}]),
        {"role": "assistant", "tool_calls": [{"id": "c"}]},
        7,
        tools=[{"a": 1}],
    )
    (turns,) = BY_ROUTE[URL].prompts(body)
    assert [turn.role for turn in turns] == ["system", "system", "user", "assistant", ""]
    assert [turn.marked for turn in turns] == [False, False, True, False, False]
    assert turns[2].path == ("messages", 1)
    assert [path for path, _ in turns[2].pieces] == [(), ("messages", 1, "content", 0, "text"), ()]
    completions = BY_ROUTE["/v1/completions"]
    assert [turn.path for (turn,) in completions.prompts({"prompt": ["a", 3, "b"]})] == [
        ("prompt", 0),
        ("prompt", 2),
    ]
    assert completions.prompts({"prompt": [1, 2]}) == []


def test_a_request_that_is_only_remembered_keeps_no_text():
    gate = Gate(ServerSettings())
    record = gate.untouched(BY_ROUTE[URL], about(1, 2), Options())
    gate.ledger.commit(record)
    assert 0 < gate.ledger.size < 2000
