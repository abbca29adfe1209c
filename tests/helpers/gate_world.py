"""A proxy with the gate between a client and an upstream whose prefix cache and prefill time are known."""

import contextlib
import hashlib
import json
import random
import re

import httpx

from tokenprune.receipt import PruneResult, Receipt, UnitRecords
from tokenprune.tokens import get_counter
from tokenprune_server.admin import create_admin_app
from tokenprune_server.app import ServerApp
from tokenprune_server.curve import Curve
from tokenprune_server.middleware import PruneMiddleware
from tokenprune_server.proxy import UpstreamApp
from tokenprune_server.runtime import Runtime

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
    With ``says`` it presents itself as a vLLM whose metrics tell whether it caches prefixes.
    """

    def __init__(self, curve=None, *, caches=True, reports=True, says=None):
        self.curve = curve or Curve(0.03, 1.9e-3)  # as vLLM measures on two cores
        self.clock = Clock()
        self.caches, self.reports, self.says = caches, reports, says
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
            owner = "stub" if self.says is None else "vllm"
            await self.answer(send, {"data": [{"id": "m", "max_model_len": 16384, "owned_by": owner}]})
            return
        if scope["path"] == "/metrics":
            assert self.says is not None, "only a vLLM is asked"
            labels = f'block_size="16",enable_prefix_caching="{self.says}",engine="0"'
            await self.answer(send, f"# TYPE x gauge\nx 1.0\nvllm:cache_config_info{{{labels}}} 1.0\n")
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
        body = content if isinstance(content, str) else json.dumps(content)
        await send({"type": "http.response.body", "body": body.encode()})

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
    """Keeps the lines that hold a mark of the question, or all as ``boilerplate``; takes 40 ms."""

    prunes_nothing = False

    def __init__(self, name, clock):
        self.name, self.clock = name, clock

    def prune(self, query, documents, budget=None):
        self.clock.now += 0.04
        if self.name == "broken":
            raise ZeroDivisionError("the pruner is broken")
        marks = re.findall(r"mark\w+", query) if self.name == "default" else []
        out = (
            documents
            if self.name == "boilerplate"
            else [
                d.with_text("\n".join(x for x in d.text.split("\n") if any(f"{m} " in x for m in marks)))
                for d in documents
            ]
        )
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

    def __init__(self, upstream, url, client, gate):
        self.upstream, self.url, self.client, self.gate = upstream, url, client, gate
        self.decisions = []

    def send(self, body, **headers):
        response = self.client.post(self.url + URL, json=body, headers=headers)
        assert response.status_code == 200
        self.decisions.append(response.headers["x-tokenprune-decision"])
        return response

    @property
    def last(self):
        return self.upstream.bodies[-1]


@contextlib.contextmanager
def proxies(serve):
    """Start proxies, each with an upstream of its own, and a client; ``serve`` serves an ASGI app."""
    with httpx.Client(timeout=150) as client:

        def begin(upstream=None, config=None, **settings):
            upstream = upstream or CachingUpstream()
            config = config or MarkConfig(upstream.clock, **settings)
            runtime = Runtime(config, clock=upstream.clock)
            inner = UpstreamApp(serve(upstream))
            app = ServerApp(PruneMiddleware(inner, runtime=runtime), create_admin_app(runtime, inner))
            return Proxy(upstream, serve(app), client, runtime.gate)

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
