"""An upstream with a prefix cache whose prefill takes a known time, over real HTTP."""

import asyncio
import hashlib
import json
import re

from tokenprune_server.curve import Curve

BLOCK = 16
_TOKEN = re.compile(r"\w+|[^\w\s]")


class CachingUpstream:
    """ASGI app: the time to its first token is ``curve`` of the tokens that it has not cached.

    Tokens are words and marks; whole blocks of 16 are cached by the hash of everything up to their end, as
    vLLM does it. ``prefills`` keeps (prompt tokens, cached tokens) of each request, ``bodies`` the requests.
    """

    def __init__(self, curve=None, *, caches=True, reports=True):
        self.curve = curve or Curve(0.002, 1e-4)
        self.caches, self.reports = caches, reports
        self.blocks: set[bytes] = set()
        self.prefills: list[tuple[int, int]] = []
        self.bodies: list[dict] = []

    @property
    def uncached(self) -> list[int]:
        return [prompt - cached for prompt, cached in self.prefills]

    def prefill(self, body) -> tuple[int, int]:
        prompt = body.get("prompt") or "".join(f"<{m['role']}>{m['content']}" for m in body["messages"])
        tokens = _TOKEN.findall(prompt)
        key, cached, hit = b"", 0, True
        for at in range(0, len(tokens) - BLOCK + 1, BLOCK):
            key = hashlib.sha256(key + " ".join(tokens[at : at + BLOCK]).encode()).digest()
            hit = hit and key in self.blocks
            cached += BLOCK if hit else 0
            if self.caches:
                self.blocks.add(key)
        return len(tokens), min(cached, len(tokens) - 1)

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
        self.bodies.append(body)
        self.prefills.append((prompt, cached))
        await asyncio.sleep(self.curve.seconds(prompt - cached))
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
