"""Pictures, and an upstream that reads pictures and rows as vLLM does."""

import base64
import io
import json
import time
from dataclasses import dataclass, field

import httpx
import torch

SIZE, PATCHES = 192, 196  # of llava-mini: hidden size, tokens of a picture
TEXT_TOKENS = 9


def picture_bytes(seed=0, size=(224, 224), kind="PNG", **options):
    import numpy as np
    from PIL import Image

    pixels = np.random.default_rng(seed).integers(0, 256, (size[1] // 8 + 1, size[0] // 8 + 1, 3), np.uint8)
    with io.BytesIO() as file:
        Image.fromarray(pixels).resize(size, 0).save(file, kind, **options)
        return file.getvalue()


def data_url(data, kind="image/png"):
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def part(url):
    return {"type": "image_url", "image_url": {"url": url}}


def chat(*parts, text="what is there ?", **more):
    content = [*parts, {"type": "text", "text": text}]
    return {"model": "m", "messages": [{"role": "user", "content": content}], **more}


def parts_in(body, kind):
    """What stands in the parts of a kind, in a request body."""
    messages = [m for m in json.loads(body)["messages"] if isinstance(m, dict)]
    contents = [m["content"] for m in messages if isinstance(m.get("content"), list)]
    parts = [p for content in contents for p in content if isinstance(p, dict) and p.get("type") == kind]
    return [p.get(kind) for p in parts]


def rows_in(body):
    """The tensors of the image_embeds parts of a request body."""
    data = [base64.b64decode(payload) for payload in parts_in(body, "image_embeds")]
    return [torch.load(io.BytesIO(d), weights_only=True) for d in data if d.startswith(b"PK")]


@dataclass
class Reads:
    """How the stub takes pictures and rows.

    Attributes:
        embeds: whether rows are taken at all.
        size: hidden size that rows must have.
        fixed: every picture has this many tokens, whatever rows come.
        pixels: tokens of a picture given as such; None: such are refused.
        logprob: of the first token, by whether the picture came as rows.
    """

    embeds: bool = True
    size: int = SIZE
    fixed: int | None = None
    pixels: int | None = PATCHES
    logprob: dict[bool, float] = field(default_factory=lambda: {True: -0.5, False: -0.52})


def reading(stub, reads):
    async def script(request, writer):
        try:
            body = json.loads(request.body)
            tokens, rows = TEXT_TOKENS, rows_in(request.body)
        except ValueError:
            await stub.answer(writer, b'{"error":"no JSON"}', b"400 Bad Request")
            return
        if rows and not reads.embeds:
            message = b'{"error":{"message":"You must set `--enable-mm-embeds` to input `image_embeds`"}}'
            await stub.answer(writer, message, b"400 Bad Request")
            return
        if any(r.ndim != 2 or r.shape[1] != reads.size for r in rows):
            message = b'{"error":{"message":"Image embedding [0] hidden dimension mismatch: got"}}'
            await stub.answer(writer, message, b"400 Bad Request")
            return
        tokens += sum(len(r) if reads.fixed is None else reads.fixed for r in rows)
        pictures = len(parts_in(request.body, "image_url"))
        if pictures and reads.pixels is None:
            await stub.answer(writer, b'{"error":{"message":"At most 0 image(s)"}}', b"400 Bad Request")
            return
        tokens += pictures * (reads.pixels or 0)
        if body.get("stream"):
            await stub.begin_chunked(writer)
            for event in (b'data: {"choices":[{"delta":{"content":"two"}}]}\n\n', b"data: [DONE]\n\n", b""):
                await stub.chunk(writer, event)
            return
        top = [{"token": "two", "logprob": reads.logprob[bool(rows)]}]
        choice = {"message": {"role": "assistant", "content": "two"}, "finish_reason": "stop"}
        choice["logprobs"] = {"content": [{"top_logprobs": top}]} if body.get("logprobs") else None
        answer = {"choices": [choice], "usage": {"prompt_tokens": tokens, "completion_tokens": 1}}
        await stub.answer(writer, json.dumps(answer).encode())

    return script


class Door:
    """A proxy that prunes pictures, in front of the stub."""

    def __init__(self, stub, url, app):
        self.stub, self.url, self.app = stub, url, app

    def post(self, body, headers=None):
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"content-type": "application/json"} | (headers or {})
        return httpx.post(f"{self.url}/v1/chat/completions", content=content, headers=headers, timeout=60)

    def post_in_pieces(self, pieces):
        """Post a body whose pieces arrive one by one."""

        def content():
            for piece in pieces:
                yield piece
                time.sleep(0.1)

        headers = {"content-type": "application/json"}
        return httpx.post(f"{self.url}/v1/chat/completions", content=content(), headers=headers, timeout=60)

    def receipt(self, answer):
        return httpx.get(f"{self.url}/v1/receipts/{answer.headers['x-tokenprune-receipt']}").json()

    @property
    def posts(self):
        """Chats that came upstream, and our own questions to it."""
        return [r for r in self.stub.requests if r.method == b"POST"]

    @property
    def chats(self):
        """What came upstream, without our own questions to it."""
        return [r for r in self.posts if b"Describe the picture." not in r.body]

    @property
    def probes(self):
        """Our own questions."""
        return len(self.posts) - len(self.chats)
