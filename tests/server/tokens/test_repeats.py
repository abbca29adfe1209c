"""Chats that come again, whole or as the beginning of a longer one: they go on as they went."""

import pytest
from token_world import FACTS, TOOL, TWO_TURNS, URL, TokenUpstream, stage


def test_a_repeat_goes_as_the_same_ids(door):
    """So that the upstream finds it in its prefix cache; nothing is chosen again."""
    world = door()
    first = world.ask(max_tokens=5)
    ids = world.upstream.last[1]["prompt"]
    count = len(world.upstream.requests)
    again = world.ask(max_tokens=6, temperature=1)
    assert stage(first) == stage(again) == "ids"
    assert again.headers["x-tokenprune-receipt"] == first.headers["x-tokenprune-receipt"]
    path, body = world.upstream.requests[count]
    assert (path, body["prompt"], body["max_tokens"]) == ("/v1/completions", ids, 6)
    assert stage(world.ask(tools=[TOOL])) == "text:tools"
    assert world.upstream.last[0] == URL


@pytest.mark.parametrize(
    ("more", "why"), [({"logprobs": True}, "logprobs"), ({"tools": "TOOL"}, "tools"), ({}, "no-tokenize")]
)
def test_a_repeat_of_what_went_as_text_says_so(door, tokenizer, more, why):
    more = {name: [TOOL] if value == "TOOL" else value for name, value in more.items()}
    upstream = TokenUpstream(tokenizer)
    upstream.no_tokenize = not more
    world = door(upstream)
    first, sent = world.ask(**more), world.upstream.last
    count = len(world.upstream.requests)
    again = world.ask(**more)
    assert stage(first) == stage(again) == f"text:{why}"
    assert again.headers["x-tokenprune-receipt"] == first.headers["x-tokenprune-receipt"]
    assert world.upstream.requests[count:] == [sent], "nothing is asked or chosen again"


@pytest.mark.parametrize("pipeline", ["none", "default"])
def test_a_repeat_of_what_was_skipped_says_so(door, pipeline):
    """Whether the pipeline pruned its documents or not."""
    world = door(pipeline=pipeline, tokens={"keep": 4000})
    content = "Context:\n{}\n\nQuestion: How old is the ferry of Oslo?\nAnswer:".format("\n".join(FACTS))
    ask = {"messages": [{"role": "user", "content": content}]}
    first, again = world.ask(**ask), world.ask(**ask)
    decided = "skipped:nothing-to-drop" if pipeline == "none" else "pruned"
    assert first.headers["x-tokenprune-decision"] == decided
    assert stage(first) == stage(again) == "skipped:fits-budget"
    assert world.upstream.requests[-1] == world.upstream.requests[-2]


def test_a_repeat_that_cannot_go_as_the_ids_says_why(door):
    world = door()
    assert stage(world.ask()) == "ids"
    assert stage(world.ask(logprobs=True)) == "text:logprobs"
    assert world.upstream.last[0] == URL
    assert stage(world.ask()) == "ids"


def test_the_next_turn_keeps_what_was_sent(door):
    """What was cut out of an earlier turn stays cut out, and is not cut again."""
    world = door()
    first = world.ask(tools=[TOOL])
    assert stage(first) == "text:tools"
    sent = world.upstream.last[1]["messages"][0]["content"]
    second = world.ask(messages=TWO_TURNS, tools=[TOOL])
    assert stage(second) == "text:tools"
    body = world.upstream.last[1]
    assert body["messages"][0]["content"] == sent
    assert len(body["messages"][2]["content"]) < len(TWO_TURNS[2]["content"]) / 2
