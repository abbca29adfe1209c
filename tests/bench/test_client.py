"""The client, chunk by chunk."""

import pytest

from tokenprune.bench.client import Server, _Stream
from tokenprune.bench.rows import Row
from tokenprune.errors import MeasureError


def read(*events, kind="text/event-stream"):
    row = Row("c", None, "direct", 0)
    stream = _Stream(row, 10.0)
    for at, data in events:
        stream.take(data, 10.0 + at)
    stream.close(kind)
    return row


def delta(content=None, finish=None, **fields):
    import json

    return json.dumps({"choices": [{"delta": {"content": content} | fields, "finish_reason": finish}]})


def test_times_as_defined():
    usage = '{"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":5,"prompt_tokens_details":{"cached_tokens":4}}}'
    row = read(
        (0.1, delta("", role="assistant")), (0.5, delta("a")), (0.6, delta("b")), (0.9, delta("", "stop")),
        (1.5, usage), (1.6, "[DONE]"),
    )  # fmt: skip
    assert row.error is None and row.text == "ab" and row.finish_reason == "stop"
    assert (row.ttft_ms, row.e2el_ms) == pytest.approx((500, 900))
    assert row.itl_ms == pytest.approx([100, 300])
    assert row.tpot_ms == pytest.approx((900 - 500) / 4)
    assert (row.tokens_in, row.tokens_out, row.cached_tokens) == (9, 5, 4)


def test_an_empty_answer_has_a_first_token_all_the_same():
    row = read((0.1, delta("", role="assistant")), (0.4, delta("", "stop")), (0.5, "[DONE]"))
    assert row.measured and row.ttft_ms == pytest.approx(400) and row.itl_ms == [] and row.tpot_ms is None


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning", "tool_calls", "refusal"])
def test_what_is_not_content_is_written_too(field):
    row = read((0.2, delta(None, **{field: ["x"]})), (0.3, delta("a", "stop")), (0.3, "[DONE]"))
    assert row.ttft_ms == pytest.approx(200)


@pytest.mark.parametrize(
    ("events", "kind", "message"),
    [
        ([(0.1, delta("a"))], "cut", "without finish_reason"),
        ([], "stream", "no event stream but text/event-stream"),
        ([(0.1, "[DONE]")], "stream", "no event stream"),
        ([(0.1, delta("")), (0.2, "[DONE]")], "stream", "no token"),
        ([(0.1, delta("a")), (0.2, '{"error": {"message": "died"}}'), (0.3, "[DONE]")], "stream", "died"),
        ([(0.1, delta("a")), (0.2, '{"error": "died"}')], "stream", "died"),
        ([(0.1, delta("a")), (0.2, '{"choi')], "stream", "no JSON object"),
        ([(0.1, "[1]")], "stream", "no JSON object"),
    ],
)
def test_what_is_no_measurement(events, kind, message):
    row = read(*events)
    assert not row.measured and row.error_kind == kind and message in row.error


@pytest.mark.parametrize(
    ("url", "root"),
    [
        ("http://h:1", "http://h:1/v1"),
        ("http://h:1/", "http://h:1/v1"),
        ("https://h/v1/", "https://h/v1"),
        ("https://h/api/v1", "https://h/api/v1"),
        ("https://h/api?x=1", "https://h/api/v1"),
    ],
)
def test_urls_with_and_without_v1(url, root):
    assert Server.at(url).root == root


def test_keys_and_passwords():
    server = Server.at("http://me:secret@h:1", "key")
    assert server.headers["authorization"] == "Bearer key"
    assert server.shown == "http://h:1/v1" and "secret" in server.root
    for wrong in ("h:1", "ftp://h", "http://", ""):
        with pytest.raises(MeasureError, match="not a URL"):
            Server.at(wrong)
