"""What is made of the upstream's answers about itself."""

import asyncio
import json

import pytest

from tokenprune_server.upstream_info import UpstreamInfo

_VLLM = b'{"data":[{"id":"m","max_model_len":10,"owned_by":"vllm"}]}'
_INFO = b'# HELP a b\nvllm:cache_config_info{block_size="16",enable_prefix_caching="%b",engine="0"} 1.0\n'


def upstream(metrics, status=200, models=_VLLM, asked=None):
    async def app(scope, receive, send):
        if asked is not None:
            asked.append(scope["path"])
        body = models if scope["path"] == "/v1/models" else metrics
        code = status if scope["path"] == "/metrics" else 200
        await send({"type": "http.response.start", "status": code, "headers": []})
        await send({"type": "http.response.body", "body": body})

    return app


@pytest.mark.parametrize(("value", "caches"), [(b"True", True), (b"False", False)])
async def test_a_vllm_says_whether_it_keeps_prefixes(value, caches):
    told = []
    info = UpstreamInfo(upstream(_INFO % value), None, 60, told.append)
    assert await info.max_model_len("m", []) == 10
    assert told == [caches]


@pytest.mark.parametrize(
    ("metrics", "status"),
    [(b"", 200), (_INFO % b"None", 200), (_INFO % b"True", 404), (b"\xff\x00", 200), (b"x" * 10**6, 500)],
)
async def test_odd_metrics_say_nothing(metrics, status):
    told = []
    info = UpstreamInfo(upstream(metrics, status), None, 60, told.append)
    assert await info.max_model_len("m", []) == 10
    assert told == []


async def test_only_a_vllm_is_asked_for_metrics():
    asked, told = [], []
    models = b'{"data":[{"id":"m","max_model_len":10,"owned_by":"me"}]}'
    info = UpstreamInfo(upstream(_INFO % b"True", models=models, asked=asked), None, 60, told.append)
    assert await info.max_model_len("m", []) == 10
    assert asked == ["/v1/models"]
    assert told == []


async def test_it_is_asked_with_a_fixed_length_as_well_but_once():
    asked, told = [], []
    info = UpstreamInfo(upstream(_INFO % b"True", asked=asked), 99, 60, told.append)
    assert [await info.max_model_len("m", []) for _ in range(3)] == [99, 99, 99]
    assert asked == ["/v1/models", "/metrics"]
    assert told == [True]


async def test_nothing_is_asked_where_nobody_wants_to_know():
    asked = []
    info = UpstreamInfo(upstream(b"", asked=asked), 99, 60)
    assert await info.max_model_len("m", []) == 99
    assert asked == []


async def test_whoever_comes_while_it_is_asked_waits_for_the_answer():
    asked = []

    async def slow(scope, receive, send):
        await asyncio.sleep(0.05)
        await upstream(b"", asked=asked)(scope, receive, send)

    info = UpstreamInfo(slow, None, 60)
    assert await asyncio.gather(*(info.max_model_len("m", []) for _ in range(5))) == [10] * 5
    assert asked == ["/v1/models"]


async def test_a_wrong_key_of_one_client_does_not_hide_the_answer_from_others():
    asked = []

    async def locked(scope, receive, send):
        asked.append(dict(scope["headers"]).get(b"authorization"))
        status = 200 if asked[-1] == b"Bearer right" else 401
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": _VLLM})

    info = UpstreamInfo(locked, None, 60)
    wrong, right = ([(b"authorization", b"Bearer " + key)] for key in (b"wrong", b"right"))
    assert [await info.max_model_len("m", key) for key in (wrong, wrong, right, wrong)] == [
        None,
        None,
        10,
        10,
    ]
    assert asked == [b"Bearer wrong", b"Bearer right"]


def counting(answer, status=200, asked=None):
    async def app(scope, receive, send):
        if asked is not None:
            asked.append((scope["path"], json.loads((await receive())["body"])))
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": answer})

    return app


async def test_a_vllm_counts_tokens():
    asked = []
    info = UpstreamInfo(counting(b'{"count":7,"tokens":[1]}', asked=asked), 99, 60)
    chat = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5, "tools": None}
    assert await info.count(chat, []) == 7
    assert await info.count({"prompt": "Hi", "add_special_tokens": False, "n": 2}, []) == 7
    assert asked == [
        ("/tokenize", {"model": "m", "messages": chat["messages"]}),
        ("/tokenize", {"prompt": "Hi", "add_special_tokens": False}),
    ]


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": ["a", "b"]},
        {"prompt": [1, 2]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        {"messages": [3]},
        {"messages": {"a": 1}},
        {"messages": 3},
    ],
)
async def test_what_is_not_one_text_is_not_counted(body):
    asked = []
    info = UpstreamInfo(counting(b'{"count":7}', asked=asked), 99, 60)
    assert await info.count(body, []) is None
    assert asked == []


@pytest.mark.parametrize(
    ("answer", "status", "times"),
    [(b"{}", 200, 2), (b"x", 200, 2), (b'{"count":"7"}', 200, 2), (b"", 500, 2), (b"", 404, 1)],
)
async def test_an_upstream_that_does_not_count(answer, status, times):
    asked = []
    info = UpstreamInfo(counting(answer, status, asked), 99, 60)
    assert [await info.count({"prompt": "Hi"}, []) for _ in range(2)] == [None, None]
    assert len(asked) == times
