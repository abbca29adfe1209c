"""A real vLLM server on CPU behind the proxy, driven by the official client."""

import contextlib
import json
import os
import socket
import threading
import time

import httpx
import openai
import pytest
from token_world import once_ready

from tokenprune.config import load_config
from tokenprune_server.app import create_app
from tokenprune_server.proxy import UpstreamApp
from tokenprune_server.settings import ServerSettings
from tokenprune_server.tokens.mapping import SAME
from tokenprune_server.upstream_info import UpstreamInfo

pytestmark = [pytest.mark.vllm, pytest.mark.models, pytest.mark.timeout(420)]

NOISE = "The old market in the lower town sells bells, ribbons and hats on every rainy day of the week. "
FACT = "The lighthouse on the northern cape was painted bright orange in 1871. "
Q = "What colour was the lighthouse on the northern cape painted?"
SETTINGS = {"pipeline": "bm25-sentences", "timeout_s": 60}


def prompt(repeats: int) -> str:
    return f"Context:\n{NOISE * repeats}{FACT}{NOISE * repeats}\n\nQuestion: {Q}\nAnswer:"


@pytest.fixture
def proxy(vllm_server, serve):
    return serve(create_app(load_config(None), vllm_server.url, ServerSettings.load(SETTINGS)))


@pytest.fixture
def client(proxy):
    with openai.OpenAI(base_url=f"{proxy}/v1", api_key="none", max_retries=0, timeout=120) as client:
        yield client


def ask(client, repeats=10, **more):
    return client.chat.completions.with_raw_response.create(
        model="smollm2-135m",
        messages=[{"role": "user", "content": prompt(repeats)}],
        temperature=0,
        max_tokens=more.pop("max_tokens", 24),
        **more,
    )


ASKED = {"tokenprune": {"enabled": True}}  # a request that asks is pruned however slow the machine is


def ask_stream(client, **more):
    return list(
        client.chat.completions.create(
            model="smollm2-135m",
            messages=[{"role": "user", "content": prompt(10)}],
            temperature=0,
            max_tokens=24,
            stream=True,
            extra_body=ASKED,
            **more,
        )
    )


def wait_idle(server, seconds=1.5):
    deadline = time.monotonic() + seconds
    while server.running() > 0:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def test_chat(client):
    raw = ask(client, extra_body={"tokenprune": {"max_tokens": 30}})
    assert raw.headers["x-tokenprune-decision"] == "pruned"
    answer = raw.parse()
    assert "orange" in answer.choices[0].message.content.lower()
    assert answer.usage.prompt_tokens < 120
    assert int(raw.headers["x-tokenprune-tokens-after"]) <= 30


def test_completions(client):
    raw = client.completions.with_raw_response.create(
        model="smollm2-135m",
        prompt=prompt(10),
        max_tokens=16,
        temperature=0,
        extra_body={"tokenprune": {"max_tokens": 30}},
    )
    assert raw.headers["x-tokenprune-decision"] == "pruned"
    assert raw.parse().usage.prompt_tokens < 90


def test_streaming_with_usage(client):
    stream = client.chat.completions.create(
        model="smollm2-135m",
        messages=[{"role": "user", "content": prompt(10)}],
        max_tokens=16,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"tokenprune": {"max_tokens": 30}},
    )
    events = list(stream)
    text = "".join(e.choices[0].delta.content or "" for e in events if e.choices)
    assert text.strip()
    assert events[-1].choices == []
    assert events[-1].usage.prompt_tokens < 120
    assert sum(1 for e in events if e.choices) > 2


def test_answers_are_those_of_vllm(client, vllm_server):
    body = {"model": "smollm2-135m", "prompt": "One, two, three,", "max_tokens": 8, "temperature": 0}
    direct = httpx.post(f"{vllm_server.url}/v1/completions", json=body, timeout=60).json()
    assert client.completions.create(**body).choices[0].text == direct["choices"][0]["text"]
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="nobody", messages=[{"role": "user", "content": "x"}])


def test_tool_calls_pass(client):
    tool = {
        "type": "function",
        "function": {
            "name": "get_colour",
            "description": "Colour of a building",
            "parameters": {
                "type": "object",
                "properties": {"building": {"type": "string"}},
                "required": ["building"],
            },
        },
    }
    forced = client.chat.completions.create(
        model="smollm2-135m",
        messages=[{"role": "user", "content": "Which colour has the lighthouse?"}],
        tools=[tool],
        tool_choice={"type": "function", "function": {"name": "get_colour"}},
        max_tokens=64,
        temperature=0,
    )
    call = forced.choices[0].message.tool_calls[0]
    assert call.function.name == "get_colour"
    raw = client.chat.completions.with_raw_response.create(
        model="smollm2-135m",
        messages=[
            {"role": "user", "content": Q},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {
                        "id": call.id,
                        "type": "function",
                        "function": {
                            "name": "get_colour",
                            "arguments": json.dumps({"building": "lighthouse"}),
                        },
                    }
                ],
            },
            {"role": "tool", "tool_call_id": call.id, "content": NOISE * 10 + FACT + NOISE * 10},
        ],
        tools=[tool],
        max_tokens=16,
        extra_body={"tokenprune": {"max_tokens": 30}},
    )
    assert raw.headers["x-tokenprune-decision"] == "pruned"
    assert raw.parse().usage.completion_tokens > 0


@pytest.mark.parametrize("stream", [True, False])
def test_an_abort_frees_vllm(proxy, vllm_server, stream):
    host, port = proxy.removeprefix("http://").split(":")
    body = {
        "model": "smollm2-135m",
        "messages": [{"role": "user", "content": "Tell a very long story."}],
        "max_tokens": 900,
        "ignore_eos": True,
        "stream": stream,
    }
    data = json.dumps(body).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nhost: h\r\ncontent-type: application/json\r\n"
    head += f"content-length: {len(data)}"
    with socket.create_connection((host, int(port)), timeout=60) as sock:
        sock.sendall(head.encode() + b"\r\n\r\n" + data)
        if stream:
            assert sock.recv(1000).startswith(b"HTTP/1.1 200")
        deadline = time.monotonic() + 30
        while vllm_server.running() == 0 and time.monotonic() < deadline:
            time.sleep(0.1)
        assert vllm_server.running() == 1
    assert wait_idle(vllm_server), "vLLM still works for a client that has left"


def test_an_overlong_prompt_is_rescued(client, vllm_server):
    body = {"model": "smollm2-135m", "messages": [{"role": "user", "content": prompt(30)}], "max_tokens": 8}
    direct = httpx.post(f"{vllm_server.url}/v1/chat/completions", json=body, timeout=60)
    assert direct.status_code == 400
    raw = ask(client, 30, max_tokens=8)
    assert raw.headers["x-tokenprune-decision"] == "pruned"
    assert int(raw.headers["x-tokenprune-tokens-before"]) > 1024
    assert raw.parse().usage.prompt_tokens <= 1024 - 8


async def test_it_counts_a_prompt_as_it_reads_it(vllm_server):
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": prompt(3)}]
    chat = {"model": "smollm2-135m", "messages": messages, "max_tokens": 1}
    text = {"model": "smollm2-135m", "prompt": prompt(3), "max_tokens": 1}
    upstream = UpstreamApp(vllm_server.url)
    info = UpstreamInfo(upstream, None, 60)
    for route, body in (("/v1/chat/completions", chat), ("/v1/completions", text)):
        said = httpx.post(vllm_server.url + route, json=body, timeout=120).json()
        assert await info.count(body, []) == said["usage"]["prompt_tokens"]
    await upstream.aclose()


def test_many_clients_at_once(client):
    failures = []

    def work():
        try:
            ask(client, 5, max_tokens=4)
        except openai.OpenAIError as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


@pytest.fixture
def token_door(vllm_server, serve):
    """A client of a proxy that sends token ids, chosen by the early layers of the served model."""
    tokens = {"model": "smollm2-135m", "keep": 60}
    settings = ServerSettings.load(SETTINGS | {"pipeline": "none", "tokens": tokens})
    url = serve(create_app(load_config(None), vllm_server.url, settings))
    once_ready(url)
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=120) as client:
        yield client


def test_chosen_tokens_go_as_ids(token_door):
    # The first request compares tokenizers, templates and answers.
    raw = ask(token_door, extra_body=ASKED)
    assert raw.headers["x-tokenprune-token-stage"] == "ids"
    assert raw.headers["x-tokenprune-decision"] == "pruned"
    answer = raw.parse()
    assert answer.choices[0].message.content.strip()
    after = int(raw.headers["x-tokenprune-tokens-after"])
    assert after <= 62
    assert after < answer.usage.prompt_tokens < after + 100
    receipt = token_door.get(
        f"/receipts/{raw.headers['x-tokenprune-receipt']}", cast_to=httpx.Response
    ).json()
    assert FACT.strip() in receipt["results"][-1]["documents"][0]["text"]

    stream = ask_stream(token_door, stream_options={"include_usage": True})
    text = "".join(e.choices[0].delta.content or "" for e in stream if e.choices)
    assert text == answer.choices[0].message.content
    assert stream[-1].usage.prompt_tokens == answer.usage.prompt_tokens
    assert {e.object for e in stream} == {"chat.completion.chunk"}

    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
    as_text = ask(token_door, tools=[tool], max_tokens=4, extra_body=ASKED)
    assert as_text.headers["x-tokenprune-token-stage"] == "text:tools"
    assert as_text.parse().usage.prompt_tokens < 400


def test_an_answer_to_ids_ends_where_a_chat_ends(token_door):
    """The end token of the chat's turn, here forced, ends the answer and is not shown."""
    end = {"2": 100}  # <|im_end|>
    raw = ask(token_door, max_tokens=9, logit_bias=end, extra_body=ASKED)
    assert raw.headers["x-tokenprune-token-stage"] == "ids"
    answer = raw.parse()
    assert answer.choices[0].finish_reason == "stop"
    assert answer.choices[0].message.content == ""
    assert answer.usage.completion_tokens == 1


def test_what_is_carried_over_means_something_on_both_routes(vllm_server):
    schemas = httpx.get(f"{vllm_server.url}/openapi.json", timeout=60).json()["components"]["schemas"]
    for request in ("ChatCompletionRequest", "CompletionRequest"):
        assert set(SAME) - set(schemas[request]["properties"]) == set(), request


@pytest.mark.slow
def test_inside_vllm(vllm_starter, tmp_path):
    config = tmp_path / "tokenprune.yaml"
    config.write_text("server:\n  pipeline: bm25-sentences\n  timeout_s: 60\n")
    env = {"TOKENPRUNE_CONFIG": str(config)}
    with contextlib.suppress(KeyError):
        env["PYTHONPATH"] = os.environ["PYTHONPATH"]
    url = vllm_starter(
        "--middleware", "tokenprune_server.PruneMiddleware", "--max-model-len", "2048", env=env
    )
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=120) as client:
        raw = ask(client, extra_body={"tokenprune": {"max_tokens": 30}})
        assert raw.headers["x-tokenprune-decision"] == "pruned"
        assert "orange" in raw.parse().choices[0].message.content.lower()
        rescued = ask(client, 100, max_tokens=8)
        assert rescued.headers["x-tokenprune-decision"] == "pruned"
        assert rescued.parse().usage.prompt_tokens <= 2040
