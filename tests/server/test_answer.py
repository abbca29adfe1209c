"""Watching answers without touching them."""

import copy
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenprune_server.answer import AnswerWatch, Expected, find_usage
from tokenprune_server.cost_model import Usage
from tokenprune_server.metrics import Metrics

EXPECTED = Expected("m", 100.0, 32.0)
USAGE = {"prompt_tokens": 90, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 48}}
START = {"type": "http.response.start", "status": 200, "headers": []}


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        self.now += 1.0
        return self.now


def body(content, more=True):
    return {"type": "http.response.body", "body": content, "more_body": more}


def event(content):
    return body(b"data: " + json.dumps(content).encode() + b"\n\n")


async def watch(messages, request, others=0):
    clock, passed, started = Clock(), [], []
    watch = AnswerWatch(EXPECTED, request, others, lambda: started.append(1), clock)

    async def send(message):
        passed.append(message)

    before = copy.deepcopy(messages)
    sending = watch.passing(send)
    for message in messages:
        await sending(message)
    assert passed == before
    assert all(a is b for a, b in zip(passed, messages, strict=True))
    return watch.result(), len(started)


ASKS = {"stream": True, "stream_options": {"include_usage": True}}


async def test_a_stream_with_usage():
    messages = [START, event({"choices": [1]}), event({"choices": [2], "usage": None})]
    messages += [event({"choices": [], "usage": USAGE}), body(b"data: [DONE]\n\n", False)]
    answer, started = await watch(messages, ASKS, others=3)
    assert (answer.seconds, answer.whole, answer.others, started) == (1.0, False, 3, 1)
    assert answer.usage == Usage(90, 48, 5)
    assert (answer.model, answer.prompt_tokens, answer.cached_tokens) == ("m", 100.0, 32.0)


async def test_a_stream_without_usage_says_when_it_began_even_if_it_breaks_off():
    answer, _ = await watch([START, event({"usage": USAGE})], {"stream": True})
    assert (answer.seconds, answer.usage) == (1.0, None)


async def test_comments_are_not_tokens():
    answer, _ = await watch([START, body(b": keep-alive\n\n"), event({})], {"stream": True})
    assert answer.seconds == 1.0
    answer, _ = await watch([START, body(b": keep-alive\n\n")], {"stream": True})
    assert answer is None


async def test_an_answer_in_one_piece_and_in_parts():
    content = json.dumps({"choices": ["x" * 9000], "usage": USAGE}).encode()
    for size in (100, 5000, 20_000):
        parts = [content[at : at + size] for at in range(0, len(content), size)]
        messages = [START] + [body(part, part is not parts[-1]) for part in parts]
        answer, _ = await watch(messages, {})
        assert (answer.seconds, answer.whole, answer.usage) == (1.0, True, Usage(90, 48, 5))
    assert (await watch(messages[:-1], {}))[0] is None


@pytest.mark.parametrize("status", [400, 500, 503])
async def test_errors_say_nothing(status):
    answer, started = await watch([{**START, "status": status}, body(b'{"usage":{}}', False)], {})
    assert (answer, started) == (None, 0)


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
        'tokenprune_saved_seconds_sum{source="observed"} 3.5',
        'tokenprune_saved_seconds_count{source="observed"} 1.0',
        'tokenprune_cached_tokens_total{source="predicted"} 64.0',
        'tokenprune_cached_tokens_total{source="reported"} 96.0',
    }
