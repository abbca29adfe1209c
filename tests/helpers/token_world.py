"""An upstream that reads token ids as vLLM does, and a tiny model that chooses tokens in front of it."""

import asyncio
import json
import lzma
import time
from importlib import resources

import httpx

TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['content'] %}{{ message['content'] }}{% endif %}"
    "{% for call in message.get('tool_calls') or [] %}{{ call['function']['arguments']['city'] }}{% endfor %}"
    "{{ '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
URL = "/v1/chat/completions"
FACTS = [
    f"The {thing} in {place} was opened again in spring after {n} years of work on its roof."
    for n, (thing, place) in enumerate(
        (thing, place)
        for thing in "library ferry museum bridge market school garden theatre".split()
        for place in "Lisbon Nairobi Oslo Quito Hanoi".split()
    )
]
DOCUMENT = " ".join(FACTS)
QUESTION = "In which year was the ferry in Oslo opened?"
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
PROMPT = f"Context:\n{DOCUMENT}\n\nQuestion: {QUESTION}\nAnswer:"
_NUMBERED = "\n".join(f"Line {n}: {fact}" for n, fact in enumerate(FACTS))
TWO_TURNS = [
    {"role": "user", "content": PROMPT},
    {"role": "assistant", "content": "In 1990."},
    {"role": "user", "content": f"Context:\n{_NUMBERED}\n\nQuestion: Which market is in Quito?\nAnswer:"},
]


def save_model(folder, template=TEMPLATE, layers=4):
    """A tiny random Llama with the shipped tokenizer, in Hugging Face layout."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder.mkdir(parents=True)
    packed = (resources.files("tokenprune") / "data" / "smollm2-tokenizer.json.xz").read_bytes()
    (folder / "raw.json").write_bytes(lzma.decompress(packed))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "raw.json"),
        eos_token="<|im_end|>",
        bos_token="<|im_start|>",
        clean_up_tokenization_spaces=False,
    )
    (folder / "raw.json").unlink()
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        initializer_range=0.2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def once_ready(url):
    """The answer of ``/readyz`` once nothing is being loaded any more."""
    while "loading" in (ready := httpx.get(f"{url}/readyz")).json().get("reason", ""):
        time.sleep(0.02)
    return ready


def wait_for(done, seconds=20):
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def stage(reply):
    return reply.headers["x-tokenprune-token-stage"]


def said(ids):
    """What the upstream answers to a prompt: it shows which ids it read."""
    return (
        f"{len(ids)} tokens, checksum {sum(n * i for n, i in enumerate(ids, 1)) % 999983}. Ünïcode 👩 ends."
    )


class TokenUpstream:
    """ASGI app with the routes of vLLM that read a chat or token ids.

    Args:
        tokenizer: a tokenizer with a chat template.
        renders: it has the render route.
    """

    def __init__(self, tokenizer, *, renders=False):
        self.tokenizer, self.renders = tokenizer, renders
        self.requests = []  # (path, body)
        self.headers = []
        self.fault = None  # of /v1/completions with more than a few tokens: a status, "gzip", "break", "hang"
        self.left = asyncio.Event()
        self.reasons = self.no_tokenize = False
        self.max_model_len = 4096

    def ids(self, body):
        text = self.tokenizer.apply_chat_template(
            _objects(body["messages"]), add_generation_prompt=True, tokenize=False
        )
        return self.encode(text)

    def encode(self, text, special=False):
        return self.tokenizer(text, add_special_tokens=special)["input_ids"]

    def read(self, body):
        """The ids of a completions request."""
        prompt, special = body["prompt"], body.get("add_special_tokens", True)
        return prompt if isinstance(prompt, list) else self.encode(prompt, special)

    @property
    def last(self):
        """Route and body of the last request that was to be answered by the model."""
        return [r for r in self.requests if "completions" in r[0] and not r[0].endswith("render")][-1]

    async def __call__(self, scope, receive, send):
        if scope["type"] == "lifespan":
            while (await receive())["type"] != "lifespan.shutdown":
                await send({"type": "lifespan.startup.complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        raw, more = b"", True
        while more:
            message = await receive()
            raw, more = raw + message.get("body", b""), message.get("more_body", False)
        path = scope["path"]
        if path == "/v1/models":
            await answer(send, {"data": [{"id": "m", "max_model_len": self.max_model_len}]})
            return
        body = json.loads(raw)
        self.requests.append((path, body))
        self.headers.append(dict(scope["headers"]))
        if path == "/tokenize" and not self.no_tokenize:
            ids = self.ids(body) if "messages" in body else self.read(body)
            await answer(send, {"tokens": ids, "count": len(ids), "max_model_len": self.max_model_len})
        elif path == URL + "/render" and self.renders:
            await answer(send, {"token_ids": self.ids(body), "sampling_params": {}})
        elif path == URL:
            ids = self.ids(body)
            if len(ids) >= self.max_model_len:
                await answer(send, {"error": {"message": "too long", "code": 400}}, 400)
                return
            text = said(ids)
            message = {"role": "assistant", "content": text}
            if self.reasons:
                message = {"role": "assistant", "content": None, "reasoning": text}
            choice = {"index": 0, "message": message, "finish_reason": "stop", "stop_reason": None}
            usage = {"prompt_tokens": len(ids), "completion_tokens": 5, "total_tokens": len(ids) + 5}
            await answer(send, {"id": "chatcmpl-1", "model": "m", "choices": [choice], "usage": usage})
        elif path == "/v1/completions":
            await self.complete(body, receive, send)
        else:
            await answer(send, {"detail": "Not Found"}, 404)

    async def complete(self, body, receive, send):
        ids = self.read(body)
        fault = self.fault if len(ids) > 80 and ids is body["prompt"] else None
        if isinstance(fault, int):
            await answer(send, {"error": {"message": "no", "type": "x", "param": None, "code": fault}}, fault)
            return
        if fault == "hang":
            while (await receive())["type"] != "http.disconnect":
                continue
            self.left.set()
            return
        text, usage = (
            said(ids),
            {"prompt_tokens": len(ids), "completion_tokens": 5, "total_tokens": len(ids) + 5},
        )
        head = {"id": "cmpl-7", "object": "text_completion", "created": 5, "model": "m"}
        count = body.get("n") or 1
        if not body.get("stream"):
            choices = [
                {
                    "index": i,
                    "text": text,
                    "logprobs": None,
                    "finish_reason": "stop",
                    "stop_reason": None,
                    "token_ids": None,
                }
                for i in range(count)
            ]
            extra = [(b"content-encoding", b"gzip")] if fault == "gzip" else []
            await answer(
                send, {**head, "choices": choices, "usage": usage, "system_fingerprint": "f"}, 200, extra
            )
            return
        headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        parts = [text[at : at + 9] for at in range(0, len(text), 9)]
        events = [b": keep-alive\n\n"]
        for n, part in enumerate(parts):
            for i in range(count):
                finish = "stop" if n == len(parts) - 1 else None
                choice = {
                    "index": i,
                    "text": part,
                    "logprobs": None,
                    "finish_reason": finish,
                    "stop_reason": None,
                }
                events.append(event({**head, "choices": [choice]}))
            if fault == "break" and n == 1:
                events += [event({"error": {"message": "lost", "code": 500}}), b"data: [DONE]\n\n"]
                break
        else:
            if (body.get("stream_options") or {}).get("include_usage"):
                events.append(event({**head, "choices": [], "usage": usage}))
            events.append(b"data: [DONE]\n\n")
        whole = b"".join(events)
        for at in range(0, len(whole), 37):  # cut anywhere, in the middle of a character too
            await send({"type": "http.response.body", "body": whole[at : at + 37], "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def event(value):
    return b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\n\n"


def _objects(messages):
    """Messages as vLLM hands them to a template."""
    out = []
    for message in messages:
        content = message.get("content")
        if isinstance(content, list):
            content = "\n".join(part["text"] for part in content)
        calls = [
            {"function": {"arguments": json.loads(call["function"]["arguments"])}}
            for call in message.get("tool_calls") or []
        ]
        out.append({**message, "content": content, "tool_calls": calls})
    return out


async def answer(send, content, status=200, extra=()):
    data = json.dumps(content).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(data)), *extra]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": data, "more_body": False})
