"""Odd requests pass byte for byte, are pruned, or get one clear error: never a 500, never no answer."""

import asyncio
import gzip
import json
import socket
import zlib

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tokenprune_server.app import create_app
from tokenprune_server.middleware import PruneMiddleware

NOISE = "The old market sells bells, ribbons and hats on every rainy day of the week, as it always has done."
DOCUMENT = "\n".join([NOISE] * 10 + ["The lighthouse was built in 1871 by the harbour board."] + [NOISE] * 10)
PROMPT = f"Context:\n{DOCUMENT}\n\nQuestion: When was the lighthouse built?"
URL, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


def chat(content=PROMPT, **more):
    return {"model": "m", "messages": [{"role": "user", "content": content}], **more}


def user(content):
    return {"role": "user", "content": content}


def raw(value):
    return json.dumps(value).encode()


def with_field(field, body=None):
    """A body with one more field, written by hand."""
    return b"{" + field + b", " + raw(body or chat())[1:]


PLAIN = raw(chat())
ZIPPED = gzip.compress(PLAIN)
TEXT = {"type": "text", "text": PROMPT}
MESSAGES = {
    "null content": [user(PROMPT), {"role": "assistant", "content": None}, user(None)],
    "numbers and objects": [user(7), user({"a": PROMPT}), user([[TEXT]]), user(True)],
    "unknown parts": [user([{"type": "video", "video": PROMPT}, TEXT, {"type": "text"}, None, 7, "x", []])],
    "parts without text": [user([{"type": "text", "text": text} for text in (None, 3, [], {})])],
    "odd types": [user([{**TEXT, "type": kind} for kind in (["text"], {}, None, 3)])],
    "odd roles": [{"role": role, "content": PROMPT} for role in (None, 3, ["user"], {"a": 1}, "nobody")],
    "no messages at all": [None, PROMPT, [PROMPT], 3, user(PROMPT)],
    "empty": [],
    "an object": {"role": "user", "content": PROMPT},
    "a string": PROMPT,
    "null": None,
    "tool calls": [{"role": "assistant", "tool_calls": PROMPT}, {"role": "tool", "content": DOCUMENT}],
    "a surrogate": [user(PROMPT.replace("1871", "1871 \ud800")), {"role": "system", "content": "\udfff"}],
    "nul": [user(PROMPT.replace("market", "mar\x00ket"))],
    "deep text": [user("[" * 20_000 + "]" * 20_000), user(PROMPT)],
    "deep tool output": [user("When?"), {"role": "tool", "content": "[" * 20_000 + "]" * 20_000}],
    "many": [user("hi"), {}] * 2000 + [user(PROMPT)],
}
FIELDS = [
    {"max_tokens": 10**400},
    {"max_tokens": -5},
    {"max_tokens": 1.5},
    {"max_tokens": "9"},
    {"max_tokens": True},
    {"max_completion_tokens": []},
    {"n": 0},
    {"stream": "yes"},
    {"stream_options": None},
    {"stream": True, "stream_options": [1]},
    {"stream": True, "stream_options": {"include_usage": "yes"}},
    {"model": None},
    {"model": ["m"]},
    {"model": {"a": 1}},
    {"model": "m" * 100_000},
    {"model": "\ud800"},
    {"cache_salt": "\ud800"},
    {"cache_salt": {}},
    {"tools": 3},
    {"tools": PROMPT},
    {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"enum": [PROMPT]}}}]},
    {"response_format": {"type": "json_schema", "json_schema": {"schema": {"description": PROMPT}}}},
    {"\ud800": 1},
]
PROMPTS = [
    [1, 2, 3] * 500,
    [[1, 2] * 300, [3]],
    [],
    [""],
    [None],
    [PROMPT, 3],
    [PROMPT, [1]],
    [[PROMPT]],
    [{"prompt": PROMPT}],
    {"a": PROMPT},
    None,
    3,
    "\ud800" + PROMPT,
]
WRITTEN = {
    "huge float": with_field(b'"t": 1e999'),
    "nan": with_field(b'"t": NaN'),
    "5000 digits": with_field(b'"t": ' + b"9" * 5000),
    "numbers": with_field(b'"t": [-0.0, 1E5, 0.1000000000000000055511151231257827]'),
    "duplicate keys": with_field(b'"model": "n"'),
    "deep": with_field(b'"deep": ' + b"[" * 800 + b"]" * 800),
    "bom": b"\xef\xbb\xbf" + PLAIN,
    "utf-16": json.dumps(chat()).encode("utf-16"),
    "surrogates as bytes": json.dumps(chat(PROMPT + "\ud800"), ensure_ascii=False).encode(
        "utf-8", "surrogatepass"
    ),
    "pretty": json.dumps(chat(), indent=4).encode(),
    "line ends": PLAIN + b"\r\n\r\n",
}
ENCODED = {
    "gzip": (ZIPPED, {"content-encoding": "gzip"}),
    "gzip, cut": (ZIPPED[:-9], {"content-encoding": "gzip"}),
    "gzip, more": (ZIPPED + b"x", {"content-encoding": "GZIP"}),
    "twice": (gzip.compress(ZIPPED), {"content-encoding": "gzip, gzip"}),
    "bomb": (gzip.compress(b"x" * 40 * 2**20), {"content-encoding": "gzip"}),
    "deflate": (zlib.compress(PLAIN), {"content-encoding": "deflate"}),
    "not what it says": (PLAIN, {"content-encoding": "gzip"}),
    "form": (b"--x\r\n\r\n" + PLAIN, {"content-type": "multipart/form-data; boundary=x"}),
}
WRONG = {
    "not utf-8": PLAIN.replace(b"lighthouse", b"light\xff\xfehouse"),
    "latin-1": json.dumps(chat("é" + PROMPT), ensure_ascii=False).encode("latin-1"),
    "too deep": with_field(b'"deep": ' + b"[" * 10_000 + b"]" * 10_000),
    "too deep objects": with_field(b'"deep": ' + b'{"a":' * 10_000 + b"1" + b"}" * 10_000),
    "a list": raw([chat()]),
    "a string": raw(PROMPT),
    "null": b"null",
    "empty": b"",
    "spaces": b"  \n",
    "cut": PLAIN[:-5],
    "more": PLAIN + b"x",
    "two": PLAIN * 2,
    "a tab": PLAIN.replace(b"market", b"mar\tket"),
    "duplicate keys and options": with_field(b'"model": "n"', chat(tokenprune={})),
    "5000 digits and options": with_field(b'"t": ' + b"9" * 5000, chat(tokenprune={})),
    "nan in options": with_field(b'"tokenprune": {"keep_ratio": NaN}'),
}
WRONG_OPTIONS = [
    3,
    "x",
    [],
    True,
    {"nope": 1},
    {"\ud800": 1},
    {"max_tokens": "5"},
    {"max_tokens": -1},
    {"max_tokens": 1.0},
    {"keep_ratio": True},
    {"contexts": "x"},
    {"contexts": {"text": "x"}},
    {"contexts": [None]},
    {"contexts": [{"text": None}]},
    {"query": 3},
    {"pipeline": "\ud800"},
    {"pipeline": []},
    {"enabled": 0},
    {"output": "pdf"},
]


@pytest.fixture
def send(stub, serve, stand_in):
    """Post bytes; gives the response and the bodies that arrived upstream."""
    url = serve(create_app(stand_in(timeout_s=60), stub.url))
    with httpx.Client(timeout=60) as client:

        def begin(content, path=URL, headers=None):
            before = len(stub.requests)
            headers = {"content-type": "application/json", **(headers or {})}
            response = client.post(url + path, content=content, headers=headers)
            return response, [request.body for request in stub.requests[before:]]

        yield begin


def fault(content, response, arrived):
    """What is wrong with how a request without options was treated, or None."""
    decision = response.headers.get("x-tokenprune-decision", "")
    if response.status_code != 200 or len(arrived) != 1:
        return response.status_code, response.text, len(arrived)
    if decision == "pruned":
        return None if json.loads(arrived[0])["model"] == json.loads(content)["model"] else arrived[0]
    return None if decision.startswith("skipped:") and arrived[0] == content else decision


def faults(send, requests):
    found = {}
    for name, (content, *how) in requests.items():
        wrong = fault(content, *send(content, *how))
        if wrong is not None:
            found[name] = wrong
    return found


def test_bodies(send):
    requests = {name: (raw({"model": "m", "messages": messages}),) for name, messages in MESSAGES.items()}
    requests |= {str(field)[:40]: (raw(chat() | field),) for field in FIELDS}
    requests |= {
        f"prompt {n}": (raw({"model": "m", "prompt": prompt}), COMPLETIONS)
        for n, prompt in enumerate(PROMPTS)
    }
    assert faults(send, requests) == {}


def test_bytes(send):
    requests = {name: (content,) for name, content in WRITTEN.items()}
    requests |= {
        name: (content, URL, headers) for name, (content, headers) in ENCODED.items() if name != "gzip"
    }
    assert faults(send, requests) == {}
    response, arrived = send(*(ENCODED["gzip"][0], URL, ENCODED["gzip"][1]))
    assert response.headers["x-tokenprune-decision"] == "pruned" and b"1871" in arrived[0]


def test_one_clear_error(send):
    wrong = dict(WRONG)
    wrong |= {ascii(options): raw(chat(tokenprune=options)) for options in WRONG_OPTIONS}
    for name, content in wrong.items():
        response, arrived = send(content)
        assert (response.status_code, arrived) == (400, []), name
        message = response.json()["error"]["message"]
        assert 10 < len(message) < 600 and "Traceback" not in message and "sys." not in message, name


@pytest.mark.parametrize("kind", [b"[%b]", b'{"a":%b}'])
def test_as_deep_as_can_only_just_be_read(send, kind):
    statuses = set()
    for depth in range(900, 1000):
        before, after = kind.split(b"%b")
        deep = before * depth + b"1" + after * depth
        field = b'"tokenprune": {"max_tokens": 90}, "deep": ' + deep
        response, _ = send(with_field(field))
        statuses.add(response.status_code)
    assert statuses <= {200, 400}


def exchange(url, data):
    """Send bytes on a connection of their own; the status and the body of the answer."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as sock:
        sock.sendall(data)
        answer = b""
        while b"\r\n\r\n" not in answer:
            part = sock.recv(65536)
            if not part:
                break
            answer += part
    return int(answer.split(b" ", 2)[1]), answer.partition(b"\r\n\r\n")[2]


UPGRADE = b"connection: upgrade\r\nupgrade: %b\r\nsec-websocket-key: eA==\r\nsec-websocket-version: 13\r\n"


@pytest.mark.parametrize(
    ("method", "more", "status", "says"),
    [
        (b"HEAD " + URL.encode(), b"", 200, b""),
        (b"OPTIONS " + URL.encode(), b"", 200, b"{}"),
        (b"OPTIONS *", b"", 400, b"'*' is not a path"),
        (b"GET /v1/realtime", UPGRADE % b"websocket", 200, b"{}"),
        (b"POST " + URL.encode(), UPGRADE % b"h2c", 400, b"send no upgrade header"),
    ],
)
def test_methods_and_upgrades(stub, serve, stand_in, method, more, status, says):
    url = serve(create_app(stand_in(), stub.url))
    body = PLAIN if method.startswith(b"POST") else b""
    head = b"%b HTTP/1.1\r\nhost: h\r\n%bcontent-length: %d\r\n\r\n" % (method, more, len(body))
    answered, said = exchange(url, head + body)
    assert answered == status and says in said


@pytest.mark.parametrize(
    "prefix", [b"/upstream%%2F", b"/up%%73tream/", b"/upstream%%2F/", b"/%%75pstream%%2f"]
)
@pytest.mark.parametrize("more", [b"", b"authorization: Bearer k\r\n"])
def test_no_request_target_leads_to_another_host(stub, serve, stand_in, prefix, more):
    url = serve(create_app(stand_in(), stub.url))
    with socket.create_server(("127.0.0.1", 0)) as other:
        other.setblocking(False)
        target = b"%b@127.0.0.1:%d/latest" % (prefix % (), other.getsockname()[1])
        status, _ = exchange(url, b"GET %b HTTP/1.1\r\nhost: h\r\n%b\r\n" % (target, more))
        with pytest.raises(BlockingIOError):
            other.accept()
    assert status == 200
    assert stub.last.target.lstrip(b"/").startswith((b"@127", b"%40127"))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
    | st.just(PROMPT),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.sampled_from(["role", "content", "type", "text", "user", "tool", "x"]), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip
places = st.sampled_from(
    [
        ("model",),
        ("messages",),
        ("messages", 0),
        ("messages", 0, "role"),
        ("messages", 0, "content"),
        ("messages", 1, "content"),
        ("messages", 1, "content", 0),
        ("messages", 1, "content", 0, "text"),
        ("max_tokens",),
        ("stream",),
        ("stream_options",),
        ("tools",),
        ("cache_salt",),
        ("prompt",),
        ("tokenprune",),
    ]
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(place=places, value=json_values, route=st.sampled_from([URL, COMPLETIONS]))
def test_any_value_anywhere(stand_in, place, value, route):
    body = {
        "model": "m",
        "messages": [user(PROMPT), user([{"type": "text", "text": PROMPT}])],
        "prompt": PROMPT,
    }
    at = body
    for step in place[:-1]:
        at = at[step]
    at[place[-1]] = value
    content = raw(body)
    arrived, answer = [], []

    async def app(scope, receive, send):
        if scope["path"] == route:
            arrived.append((await receive())["body"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})

    async def receive():
        if arrived or answer:
            await asyncio.sleep(60)
        return {"type": "http.request", "body": content, "more_body": False}

    async def send(message):
        answer.append(message)

    async def run():
        middleware = PruneMiddleware(app, stand_in(timeout_s=60))
        try:
            scope = {"type": "http", "method": "POST", "path": route, "headers": [], "query_string": b""}
            await asyncio.wait_for(middleware(scope, receive, send), 60)
        finally:
            middleware.runtime.pool.shutdown()

    asyncio.run(run())
    status, decision = answer[0]["status"], dict(answer[0]["headers"])[b"x-tokenprune-decision"]
    assert (status, len(arrived)) in ((200, 1), (400, 0))
    assert (status == 400) == decision.startswith(b"failed:"), answer
    if decision.startswith(b"skipped:") and "tokenprune" not in body:
        assert arrived == [content]
