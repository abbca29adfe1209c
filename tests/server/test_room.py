"""How a prompt stands to the context of its model."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenprune.tokens import get_counter
from tokenprune_server.options import Options
from tokenprune_server.protocols import BY_ROUTE
from tokenprune_server.request import Request
from tokenprune_server.room import Room
from tokenprune_server.settings import ServerSettings

SETTINGS = ServerSettings()
LONG, DENSE = "word " * 1000, "鯨 " * 600  # the second has fewer characters, and more tokens


def room(body, model_len, route="/v1/completions", options=None, counted=None):
    size = len(json.dumps(body))
    request = Request(BY_ROUTE[route], body, options or Options(), size, model_len, lambda body: counted)
    return Room(request, SETTINGS, "smollm2-135m")


@pytest.mark.parametrize("prompts", [[LONG, DENSE], [DENSE, LONG]])
def test_of_a_batch_the_prompt_with_most_tokens_decides(prompts):
    tokens = get_counter("smollm2-135m").count(DENSE)
    assert tokens > get_counter("smollm2-135m").count(LONG)
    here = room({"prompt": prompts}, 1200)
    assert here.prompt == here.too_long == tokens + 8
    # 16 for the answer, which is the API's own default, as much for a frame, and two parts in a hundred
    assert here.documents(700) == 1200 - 16 - 16 - 24 - (tokens + 8 - 700)


def test_contexts_count():
    contexts = {"contexts": [LONG]}
    beside = get_counter("smollm2-135m").count(LONG)
    alone, more = (room({"prompt": DENSE}, 1200, options=o) for o in (None, Options(**contexts)))
    assert more.prompt - alone.prompt == beside + 12


@pytest.mark.parametrize(("body", "model_len"), [({"prompt": LONG}, None), ({"prompt": "short"}, 400)])
def test_nothing_is_counted_where_it_would_say_nothing(body, model_len, monkeypatch):
    monkeypatch.setattr("tokenprune_server.room.get_counter", None)
    here = room(body, model_len)
    assert (here.prompt, here.too_long, here.documents(5)) == (None, None, None)


def test_a_prompt_that_fits():
    here = room({"prompt": [LONG, "x"]}, 4000)
    assert (here.too_long, here.documents(5)) == (None, None)
    assert here.prompt == get_counter("smollm2-135m").count(LONG) + 8


@pytest.mark.parametrize(("model_len", "certain"), [(100, True), (2000, False), (None, False)])
def test_by_far_too_long_needs_no_count(model_len, certain, monkeypatch):
    monkeypatch.setattr("tokenprune_server.room.get_counter", None)
    body = {"messages": [{"role": "user", "content": LONG}]}
    assert (room(body, model_len, "/v1/chat/completions").certainly_too_long() is not None) == certain
    few = {"prompt": ["short"] * 2000}  # long in sum only
    assert room(few, model_len).certainly_too_long() is None


def test_documents_that_were_counted_spare_the_count_of_a_prompt_that_fits(monkeypatch):
    body = {"messages": [{"role": "user", "content": f"{LONG}\n\nWhich word?"}]}
    tokens = get_counter("smollm2-135m").count(LONG)
    long, short = room(body, 2000, "/v1/chat/completions"), room(body, 900, "/v1/chat/completions")
    long.know(tokens, [LONG])
    short.know(tokens, [LONG])
    assert short.too_long is not None and short.too_long > tokens
    monkeypatch.setattr("tokenprune_server.room.get_counter", None)
    assert (long.too_long, long.documents(tokens)) == (None, None)


@given(st.text(max_size=60), st.text(max_size=60), st.integers(0, 60))
def test_what_is_known_never_makes_a_prompt_fit_that_does_not(document, rest, spare):
    body = {"prompt": document + rest}
    counter = get_counter("smollm2-135m")
    whole = counter.count(document + rest)
    here = room(body, 32 + whole - spare, options=None)
    here.know(counter.count(document), [document])
    limit = 32 + whole - spare - 32 - int(SETTINGS.context_margin * (32 + whole - spare))
    assert here.too_long is not None or whole <= limit


def test_what_the_upstream_counts_decides_where_ours_is_too_much():
    body, ours = {"prompt": DENSE}, get_counter("smollm2-135m").count(DENSE) + 8
    assert room(body, 1200).too_long == ours
    assert room(body, 1200, counted=600).too_long is None
    assert room(body, 1200, counted=1184).too_long is None  # to the last token: 16 are for the answer
    here = room(body, 1200, counted=1185)
    assert here.too_long == 1185
    # As much less as the model's tokens are fewer than ours; a budget is counted in ours.
    assert here.documents(700) == (1200 - 16 - 16 - 24) * ours // 1185 - (ours - 700)
    assert room(body, 1200, counted=ours).documents(700) == room(body, 1200).documents(700)


def test_contexts_are_not_in_what_the_upstream_would_count():
    here = room({"prompt": DENSE}, 1200, options=Options(contexts=[LONG]), counted=5)
    assert here.too_long == here.prompt > 1200
