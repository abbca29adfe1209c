"""The embedded server over real HTTP: a uvicorn on a free loopback port, httpx and the official client."""

import asyncio
import json
import socket
import threading
import time

import httpx
import openai
import pytest
import uvicorn

from tokenprune_server.embedded import create_embedded_app

pytestmark = pytest.mark.models

MODEL = "smollm2-135m"
PARIS = [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}]
STORY = [{"role": "user", "content": "Tell a very long story."}]
MAX_LEN = 4096


@pytest.fixture(scope="module")
def base_url():
    app = create_embedded_app(MODEL, max_model_len=MAX_LEN)
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        port = sock.getsockname()[1]
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=5))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]})
        thread.start()
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 30
        while not server.started and time.monotonic() < deadline:
            time.sleep(0.02)
        yield url
        server.should_exit = True
        thread.join(timeout=30)
    assert not thread.is_alive()


@pytest.fixture
def http(base_url):
    with httpx.Client(base_url=base_url, timeout=120) as client:
        yield client


@pytest.fixture
def client(base_url):
    with openai.OpenAI(base_url=f"{base_url}/v1", api_key="none", max_retries=0, timeout=120) as client:
        yield client


def gauges(http: httpx.Client) -> tuple[float, float]:
    values = {}
    for line in http.get("/metrics").text.splitlines():
        if line.startswith("vllm:num_requests_"):
            values[line.partition("{")[0]] = float(line.rpartition(" ")[2])
    return values["vllm:num_requests_running"], values["vllm:num_requests_waiting"]


def wait_for(http: httpx.Client, expected: tuple[float, float], seconds: float = 8) -> None:
    deadline = time.monotonic() + seconds
    while (now := gauges(http)) != expected:
        assert time.monotonic() < deadline, f"(running, waiting) is {now}, expected {expected}"
        time.sleep(0.02)


def test_models_health_and_unknown_paths(http) -> None:
    (card,) = http.get("/v1/models").json()["data"]
    assert (card["id"], card["max_model_len"]) == (MODEL, MAX_LEN)
    assert http.get("/health").status_code == 200
    assert http.get("/v1/nothing").json()["error"]["type"] == "NotFoundError"
    assert http.get("/v1/completions").status_code == 405


def test_chat(client) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=PARIS, temperature=0, max_tokens=40)
    assert "Paris" in answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.prompt_tokens == 42
    assert answer.usage.total_tokens == 42 + answer.usage.completion_tokens


def test_chat_stream_equals_the_whole(client) -> None:
    options = {"model": MODEL, "messages": PARIS, "temperature": 0, "max_completion_tokens": 40}
    whole = client.chat.completions.create(**options)
    chunks = list(
        client.chat.completions.create(**options, stream=True, stream_options={"include_usage": True})
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert len({chunk.id for chunk in chunks}) == 1


def test_sse_framing(http) -> None:
    body = {"model": MODEL, "messages": PARIS, "max_tokens": 3, "temperature": 0, "stream": True}
    response = http.post("/v1/chat/completions", json=body)
    assert response.headers["content-type"].startswith("text/event-stream")
    events = response.text.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    first, *middle = [json.loads(event.removeprefix("data: ")) for event in events[:-2]]
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert all("usage" not in chunk for chunk in [first, *middle])
    assert middle[-1]["choices"][0]["finish_reason"] == "length"


def test_text_completions(client) -> None:
    options = {"model": MODEL, "max_tokens": 4, "temperature": 0}
    one = client.completions.create(prompt="The capital of France is", **options)
    assert one.choices[0].text.startswith(" Paris")
    two = client.completions.create(prompt=["The capital of France is", "One two three"], **options)
    assert [choice.index for choice in two.choices] == [0, 1]
    assert two.choices[0].text == one.choices[0].text
    ids = client.completions.create(prompt=[504, 3575, 282, 4649, 314], **options)
    assert ids.choices[0].text == one.choices[0].text
    assert ids.usage.prompt_tokens == 5
    streamed = client.completions.create(prompt=["The capital of France is", "One"], stream=True, **options)
    texts = {0: "", 1: ""}
    for chunk in streamed:
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts[0] == one.choices[0].text
    assert texts[1]


def test_stop_seed_and_parts(client) -> None:
    stopped = client.chat.completions.create(model=MODEL, messages=PARIS, temperature=0, stop=["of France"])
    assert stopped.choices[0].message.content == "The capital "
    assert stopped.choices[0].finish_reason == "stop"
    options = {
        "model": MODEL,
        "messages": STORY,
        "temperature": 1.3,
        "top_p": 0.9,
        "max_tokens": 12,
        "seed": 5,
    }
    texts = [client.chat.completions.create(**options).choices[0].message.content for _ in range(2)]
    assert texts[0] == texts[1]
    parts = [{"role": "user", "content": [{"type": "text", "text": PARIS[0]["content"]}]}]
    answer = client.chat.completions.create(model=MODEL, messages=parts, temperature=0)
    assert "Paris" in answer.choices[0].message.content


def test_token_ids_and_request_id(http) -> None:
    body = {"messages": PARIS, "temperature": 0, "max_tokens": 2, "return_token_ids": True}
    response = http.post("/v1/chat/completions", json=body, headers={"X-Request-Id": "abc"})
    assert response.headers["x-request-id"] == "abc"
    answer = response.json()
    assert answer["id"] == "chatcmpl-abc"
    assert answer["choices"][0]["token_ids"] == [504, 3575]
    assert len(answer["prompt_token_ids"]) == answer["usage"]["prompt_tokens"]
    again = {
        "prompt": answer["prompt_token_ids"],
        "temperature": 0,
        "max_tokens": 2,
        "return_token_ids": True,
    }
    completion = http.post("/v1/completions", json=again).json()
    assert completion["choices"][0]["token_ids"] == [504, 3575]


def test_over_long_prompt_is_a_400(client) -> None:
    long = [{"role": "user", "content": "word " * (MAX_LEN + 1)}]
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=MODEL, messages=long)
    assert caught.value.body["type"] == "BadRequestError"
    assert caught.value.body["code"] == 400
    assert f"maximum context length is {MAX_LEN} tokens" in caught.value.body["message"]
    with pytest.raises(openai.BadRequestError, match="you requested 5000 output tokens"):
        client.completions.create(model=MODEL, prompt="The", max_tokens=5000, stream=True)


@pytest.mark.parametrize(
    ("change", "status", "param"),
    [
        ({"model": "gpt-4"}, 404, "model"),
        ({"n": 2}, 400, "n"),
        ({"logprobs": True}, 400, "logprobs"),
        ({"tool_choice": "required", "tools": [{"type": "function"}]}, 400, "tool_choice"),
        ({"response_format": {"type": "json_object"}}, 400, "response_format"),
        ({"temperature": -1}, 400, "temperature"),
        ({"temperature": "warm"}, 400, "temperature"),
        ({"max_tokens": 0}, 400, "max_tokens"),
        ({"allowed_token_ids": [7]}, 400, "allowed_token_ids"),
        ({"bad_words": ["lamp"]}, 400, "bad_words"),
        ({"truncate_prompt_tokens": 5}, 400, "truncate_prompt_tokens"),
        ({"skip_special_tokens": False}, 400, "skip_special_tokens"),
        ({"add_special_tokens": True}, 400, "add_special_tokens"),
        ({"chat_template_kwargs": {"chat_template": "{{ 1 }}"}}, 400, "chat_template_kwargs"),
        ({"chat_template_kwargs": {"tokenize": True}}, 400, "chat_template_kwargs"),
        ({"messages": "hello"}, 400, "messages"),
        ({"messages": []}, 400, "messages"),
        ({"messages": [{"content": "x"}]}, 400, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "messages"),
    ],
)
def test_wrong_requests(http, change, status, param) -> None:
    response = http.post("/v1/chat/completions", json={"model": MODEL, "messages": PARIS, **change})
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (status, status, param)
    assert error["type"] == {400: "BadRequestError", 404: "NotFoundError"}[status]


def test_harmless_fields_are_taken(http) -> None:
    body = {
        "messages": PARIS,
        "max_tokens": 1,
        "n": 1,
        "user": "me",
        "logprobs": False,
        "add_special_tokens": False,
        "skip_special_tokens": True,
        "chat_template_kwargs": {"enable_thinking": False},
        "presence_penalty": 0.0,
    }
    body |= {
        "tools": [{"type": "function", "function": {"name": "f"}}],
        "tool_choice": "auto",
        "metadata": {},
    }
    assert http.post("/v1/chat/completions", json=body).status_code == 200


def test_zero_log_probabilities_are_not_none(http) -> None:
    response = http.post("/v1/completions", json={"prompt": "The", "max_tokens": 1, "logprobs": 0})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "logprobs")


def test_special_tokens_of_a_prompt(http) -> None:
    bodies = ({"prompt": "The lamp", "max_tokens": 1, "add_special_tokens": add} for add in (True, False))
    counts = [http.post("/v1/completions", json=b).json()["usage"]["prompt_tokens"] for b in bodies]
    assert counts == [2, 2]  # this model's tokenizer has none to add; both are taken


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b'{"messages": ', b"\xff\xfe", b"[" * 100_000])
def test_malformed_json(http, body) -> None:
    response = http.post("/v1/chat/completions", content=body, headers={"content-type": "application/json"})
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "BadRequestError"


@pytest.mark.parametrize("stream", [True, False])
def test_disconnect_frees_the_running_request(base_url, http, stream) -> None:
    body = {"messages": STORY, "max_tokens": 3000, "ignore_eos": True, "stream": stream}
    with httpx.Client(base_url=base_url, timeout=60) as other:
        if stream:
            with other.stream("POST", "/v1/chat/completions", json=body) as response:
                next(response.iter_lines())
                wait_for(http, (1, 0))
        else:
            with pytest.raises(httpx.ReadTimeout):
                other.post("/v1/chat/completions", json=body, timeout=0.5)
    wait_for(http, (0, 0))


@pytest.mark.parametrize("stream", [True, False])
async def test_disconnect_in_prefill_and_in_the_line(base_url, http, stream) -> None:
    long = [{"role": "user", "content": "word " * (MAX_LEN - 200)}]
    async with httpx.AsyncClient(base_url=base_url, timeout=60) as client:

        def post(messages):
            body = {"messages": messages, "max_tokens": 100, "ignore_eos": True, "stream": stream}
            return asyncio.create_task(client.post("/v1/chat/completions", json=body))

        running = post(long)
        await asyncio.to_thread(wait_for, http, (1, 0))
        queued = [post(STORY), post(PARIS)]
        await asyncio.to_thread(wait_for, http, (1, 2))
        queued[0].cancel()
        await asyncio.to_thread(wait_for, http, (1, 1))
        running.cancel()
        # The second in the line now runs at once, and answers.
        await asyncio.to_thread(wait_for, http, (1, 0))
        assert (await queued[1]).status_code == 200
        await asyncio.gather(running, queued[0], return_exceptions=True)
    wait_for(http, (0, 0))
