"""Watching answers without touching them."""

import copy
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenprune_server.answer import AnswerWatch, Expected, find_usage, holds_token
from tokenprune_server.cost_model import Usage
from tokenprune_server.metrics import Metrics

EXPECTED = Expected("m", 100.0, 32.0)
USAGE = {"prompt_tokens": 90, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 48}}
START = {"type": "http.response.start", "status": 200, "headers": []}


class Clock:
    """It is as late as messages have passed."""

    now = 0.0

    def __call__(self):
        return self.now


def body(content, more=True):
    return {"type": "http.response.body", "body": content, "more_body": more}


def event(content):
    return body(b"data: " + json.dumps(content).encode() + b"\n\n")


async def watch(messages, request, others=0):
    clock, passed, started = Clock(), [], []
    watch = AnswerWatch(EXPECTED, request, others, lambda: started.append(clock.now), clock)

    async def send(message):
        passed.append(message)
        clock.now += 1.0

    before = copy.deepcopy(messages)
    sending = watch.passing(send)
    for message in messages:
        await sending(message)
    assert passed == before
    assert all(a is b for a, b in zip(passed, messages, strict=True))
    return watch.result(), started


ASKS = {"stream": True, "stream_options": {"include_usage": True}}


async def test_a_stream_with_usage():
    messages = [START, event({"choices": [1]}), event({"choices": [2], "usage": None})]
    messages += [event({"choices": [], "usage": USAGE}), body(b"data: [DONE]\n\n", False)]
    answer, started = await watch(messages, ASKS, others=3)
    assert (answer.seconds, answer.whole, answer.others, started) == (2.0, False, 3, [2.0])
    assert answer.usage == Usage(90, 48, 5)
    assert (answer.model, answer.prompt_tokens, answer.cached_tokens) == ("m", 100.0, 32.0)


async def test_a_stream_without_usage_says_when_it_began_even_if_it_breaks_off():
    answer, _ = await watch([START, event({"usage": USAGE})], {"stream": True})
    assert (answer.seconds, answer.usage) == (2.0, None)


async def test_comments_are_not_tokens():
    answer, started = await watch([START, body(b": keep-alive\n\n"), event({})], {"stream": True})
    assert (answer.seconds, started) == (3.0, [3.0])
    assert await watch([START, body(b": keep-alive\n\n")], {"stream": True}) == (None, [])


def delta(**content):
    return event({"choices": [{"index": 0, "delta": content, "finish_reason": None}]})


ROLE = delta(role="assistant", content="")
WORD = delta(content="A")


def joined(*messages):
    return body(b"".join(message["body"] for message in messages))


def cut(message, at):
    return [body(message["body"][:at]), body(message["body"][at:])]


@pytest.mark.parametrize(
    ("messages", "seconds"),
    [
        ([ROLE, WORD], 3.0),  # as it comes from a server that names the role when it accepts the request
        ([joined(ROLE, WORD)], 2.0),  # both with the first token, as vLLM has them
        ([ROLE, delta(content=""), delta(content=None), WORD], 5.0),
        ([joined(ROLE, body(WORD["body"][:30])), body(WORD["body"][30:])], 3.0),
        ([*cut(ROLE, 20), *cut(WORD, 9)], 5.0),
        ([ROLE, delta(reasoning_content="Hm")], 3.0),
        ([ROLE, delta(tool_calls=[{"index": 0}])], 3.0),
        ([ROLE, event({"choices": [{"delta": {}, "finish_reason": "stop"}]})], 3.0),
        ([event({"choices": [], "prompt_filter_results": [1]}), ROLE, WORD], 4.0),
        ([event({"choices": [{"text": ""}]}), event({"choices": [{"text": "A"}]})], 3.0),
        ([event({"choices": [{"delta": {"role": "assistant"}}, {"delta": {"content": "A"}}]})], 2.0),
        ([body(b"data: what is this?\n\n")], 2.0),
        ([body(b"data: " + b"[" * 50_000 + b"\n\n")], 2.0),
        ([body(b"data: " + b"x" * 60_000), body(b"x" * 10_000), body(b"x")], 3.0),
    ],
)
async def test_the_first_token_is_the_first_one_with_content(messages, seconds):
    answer, started = await watch([START, *messages, body(b"data: [DONE]\n\n", False)], {"stream": True})
    assert (answer.seconds, started) == (seconds, [seconds])


async def test_nothing_is_parsed_after_the_first_token(monkeypatch):
    fed = []
    monkeypatch.setattr("tokenprune_server.answer._json", lambda data: fed.append(data) or json.loads(data))
    await watch([START, ROLE, *[WORD] * 20, body(b"data: [DONE]\n\n", False)], {"stream": True})
    assert len(fed) == 2


async def test_an_answer_without_a_token_tells_no_time_but_was_begun():
    for messages in ([ROLE], [], [body(b'{"choices": []}')]):
        done = [START, *messages, body(b"data: [DONE]\n\n", False)]
        answer, started = await watch(done, {"stream": True})
        assert (answer, started) == (None, [len(done)])


@pytest.mark.parametrize("before", [[], [ROLE]])
async def test_an_error_in_place_of_the_first_token(before):
    error = event({"error": {"message": "the engine died", "code": 500}})
    done = [START, *before, error, body(b"data: [DONE]\n\n", False)]
    assert await watch(done, ASKS) == (None, [])


async def test_a_compressed_stream_begins_with_its_first_bytes():
    head = {**START, "headers": [(b"content-encoding", b"gzip")]}
    answer, started = await watch([head, body(b"\x1f\x8b"), body(b"", False)], ASKS)
    assert (answer.seconds, answer.usage, started) == (2.0, None, [2.0])


async def test_an_answer_in_one_piece_and_in_parts():
    content = json.dumps({"choices": ["x" * 9000], "usage": USAGE}).encode()
    for size in (100, 5000, 20_000):
        parts = [content[at : at + size] for at in range(0, len(content), size)]
        messages = [START] + [body(part, part is not parts[-1]) for part in parts]
        answer, started = await watch(messages, {})
        assert (answer.whole, answer.usage) == (True, Usage(90, 48, 5))
        assert (answer.seconds, started) == (len(messages), [1.0])
    assert await watch(messages[:-1], {}) == (None, [1.0])


@pytest.mark.parametrize("status", [400, 500, 503])
async def test_errors_say_nothing(status):
    answer, started = await watch([{**START, "status": status}, body(b'{"usage":{}}', False)], {})
    assert (answer, started) == (None, [])


async def test_compressed_answers_are_not_read():
    head = {**START, "headers": [(b"Content-Encoding", b"gzip")]}
    answer, _ = await watch([head, body(json.dumps({"usage": USAGE}).encode(), False)], {})
    assert answer.usage is None


class TestUsage:
    @pytest.mark.parametrize(
        ("tail", "usage"),
        [
            (b'{"usage": {"prompt_tokens": 7}}', Usage(7)),
            (b'"usage":{"prompt_tokens":7,"prompt_tokens_details":null}', Usage(7)),
            (b'"usage":{"prompt_tokens":1}} "usage":{"prompt_tokens":2}}', Usage(2)),
            (b'"usage":{"prompt_tokens":2}} data: {"usage":null}', Usage(2)),
            (b'"usage":{"prompt_tokens":2,"prompt_tokens_details":{"cached_tokens":3}}', None),
            (b'"usage":{"prompt_tokens":true}', None),
            (b'"usage":{"prompt_tokens":-1}', None),
            (b'"usage":{"prompt_tok', None),
            (b'"usage":{}', None),
            (b"", None),
        ],
    )
    def test_forms(self, tail, usage):
        assert find_usage(tail) == usage

    @given(st.text(max_size=40), st.sampled_from(['"usage": {"prompt_tokens": 3}', '\\"usage\\":{']))
    def test_text_of_the_answer_is_not_usage(self, text, lure):
        answer = {"text": text + lure + text}
        assert find_usage(json.dumps(answer).encode()) is None
        assert find_usage(json.dumps({**answer, "usage": USAGE}).encode()) == Usage(90, 48, 5)

    @given(st.binary(max_size=60))
    def test_any_bytes(self, raw):
        find_usage(raw)
        find_usage(b'"usage":{' + raw)


async def test_metrics_compare_predicted_and_observed():
    metrics = Metrics()
    stream = [START, event({"usage": USAGE}), body(b"", False)]
    answer, _ = await watch(stream, ASKS)
    metrics.gated(Expected("m", 100, 32, gain_s=3.0, unpruned_s=5.0, prune_s=0.5), answer)
    metrics.gated(EXPECTED, answer)
    lines = set(metrics.render().decode().splitlines())
    assert lines >= {
        'tokenprune_saved_seconds_sum{source="predicted"} 3.0',
        'tokenprune_saved_seconds_sum{source="observed"} 2.5',
        'tokenprune_saved_seconds_count{source="observed"} 1.0',
        'tokenprune_cached_tokens_total{source="predicted"} 64.0',
        'tokenprune_cached_tokens_total{source="reported"} 96.0',
    }


@pytest.mark.parametrize(
    ("chunk", "token"),
    [
        (b'data: {"choices":[{"delta":{"role":"assistant","content":""}}]}', False),
        (b'data: {"choices":[{"delta":{"content":"Hi"}}]}', True),
        (b'data: {"choices":[{"text":" x"}]}', True),
        (b'data: {"choices":[{"delta":{"tool_calls":[{"function":{"arguments":"{"}}]}}]}', True),
        (b'data: {"choices":[{"delta":{"content":null,"reasoning_content":"hm"}}]}', True),
        (b": keep-alive", False),
        (b"", False),
    ],
)
def test_a_token_is_what_the_model_wrote(chunk, token):
    assert holds_token(chunk + b"\n\n") is token
