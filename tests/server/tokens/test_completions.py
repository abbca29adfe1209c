"""Prompt strings of ``/v1/completions`` whose tokens are chosen: they go as ids by the same route."""

import json

import httpx
import pytest
from token_world import DOCUMENT, PROMPT, QUESTION, TokenUpstream, said, save_model, stage

COMPLETIONS = "/v1/completions"


def test_ids_go_in_place_of_the_string(door, tokenizer):
    world = door()
    reply = world.ask(COMPLETIONS, max_tokens=9, stop=["\n"], best_of=1, something_new=1)
    assert stage(reply) == "ids"
    assert reply.headers["x-tokenprune-decision"] == "pruned"
    path, body = world.upstream.last
    assert path == COMPLETIONS
    assert {name: value for name, value in body.items() if name != "prompt"} == {
        "model": "m",
        "max_tokens": 9,
        "stop": ["\n"],
        "best_of": 1,
        "something_new": 1,
    }
    answer = reply.json()
    assert (answer["object"], answer["id"]) == ("text_completion", "cmpl-7")
    assert answer["choices"][0]["text"] == said(body["prompt"])
    # All of the frame is there, and of the document what the receipt says.
    receipt = httpx.get(f"{world.url}/v1/receipts/{reply.headers['x-tokenprune-receipt']}").json()
    last = receipt["results"][-1]
    assert list(last["originals"].values()) == [DOCUMENT]
    kept = last["documents"][0]["text"]
    assert tokenizer.decode(body["prompt"]) == f"Context:\n{kept}\n\nQuestion: {QUESTION}\nAnswer:"
    assert last["tokens_after"] <= 62


def test_a_stream_passes_as_it_is(door):
    world = door()
    reply = world.ask(COMPLETIONS, stream=True)
    assert stage(reply) == "ids"
    lines = [line.removeprefix("data: ") for line in reply.text.split("\n\n") if line.startswith("data: ")]
    assert lines.pop() == "[DONE]"
    events = [json.loads(line) for line in lines]
    assert {event["object"] for event in events} == {"text_completion"}
    assert "".join(e["choices"][0]["text"] for e in events) == said(world.upstream.last[1]["prompt"])


@pytest.mark.parametrize("special", [True, False, None])
def test_tokens_that_the_server_puts_before_a_prompt_are_there(door, tmp_path, special):
    from tokenizers import Tokenizer, processors

    from tokenprune.models.causal_lm import load_tokenizer

    model = save_model(tmp_path / "begins")
    core = Tokenizer.from_file(str(model / "tokenizer.json"))
    begin = ("<|im_start|>", core.token_to_id("<|im_start|>"))
    core.post_processor = processors.TemplateProcessing(single="<|im_start|> $A", special_tokens=[begin])
    core.save(str(model / "tokenizer.json"))
    world = door(TokenUpstream(load_tokenizer(str(model))), tokens={"model": str(model)})
    reply = world.ask(COMPLETIONS, **({} if special is None else {"add_special_tokens": special}))
    assert stage(reply) == "ids"
    ids = world.upstream.last[1]["prompt"]
    assert (ids[0] == begin[1]) is (special is not False)
    assert begin[1] not in ids[1:]


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"echo": True}, "text:echo"),
        ({"suffix": " end"}, "text:suffix"),
        ({"truncate_prompt_tokens": 300}, "text:truncate-prompt-tokens"),
        ({"messages": []}, "skipped:unknown-field"),
        ({"prompt": [PROMPT]}, "skipped:several-prompts"),
    ],
)
def test_what_only_a_string_can_do_goes_as_text(door, more, expected):
    world = door()
    reply = world.ask(COMPLETIONS, **more)
    assert stage(reply) == expected
    path, body = world.upstream.last
    assert path == COMPLETIONS
    if expected.startswith("skipped:"):
        assert body["prompt"] == more.get("prompt", PROMPT)
    else:
        assert body | more == body
        assert body["prompt"].startswith("Context:\n")
        assert body["prompt"].endswith(f"\n\nQuestion: {QUESTION}\nAnswer:")
        assert len(body["prompt"]) < len(PROMPT) / 2
        assert stage(world.ask(COMPLETIONS, **more)) == expected, "a repeat says so, too"


def test_a_repeat_and_a_budget(door):
    world = door(pipeline="none")
    asks = {"tokenprune": {"max_tokens": 90}}
    first, ids = world.ask(COMPLETIONS, **asks), world.upstream.last[1]["prompt"]
    again = world.ask(COMPLETIONS, **asks)
    assert stage(first) == stage(again) == "ids"
    assert world.upstream.last[1]["prompt"] == ids
    assert 60 < int(first.headers["x-tokenprune-tokens-after"]) <= 90


def test_a_server_that_reads_strings_otherwise_gets_text(door, tokenizer, caplog):
    class Other(TokenUpstream):
        def read(self, body):
            return [i + 1 if i == 28 else i for i in super().read(body)]

    assert stage(door(Other(tokenizer)).ask(COMPLETIONS)) == "text:tokenizer-mismatch"

    class Longer(TokenUpstream):
        def read(self, body):
            ids = super().read(body)
            return [1, *ids] if "ferry" in str(body) and isinstance(body["prompt"], str) else ids

    assert stage(door(Longer(tokenizer)).ask(COMPLETIONS)) == "text:prompt-mismatch"

    class Deaf(TokenUpstream):
        async def complete(self, body, receive, send):
            if isinstance(body["prompt"], list):
                body = {**body, "prompt": body["prompt"][:3]}
            await super().complete(body, receive, send)

    assert stage(door(Deaf(tokenizer)).ask(COMPLETIONS)) == "text:answer-mismatch"


def test_a_chat_template_that_differs_does_not_matter(door, tmp_path):
    from tokenprune.models.causal_lm import load_tokenizer

    other = load_tokenizer(str(save_model(tmp_path / "other", template="{{ messages[0]['content'] }}")))
    world = door(TokenUpstream(other))
    assert stage(world.ask()) == "text:template-mismatch"
    assert stage(world.ask(COMPLETIONS)) == "ids"


def test_refused_ids_go_as_text(door, tokenizer):
    upstream = TokenUpstream(tokenizer)
    upstream.fault = 400
    reply = door(upstream, tokens={"keep": 120}).ask(COMPLETIONS)
    assert (reply.status_code, stage(reply)) == (200, "text:refused")
    prompt = upstream.last[1]["prompt"]
    assert prompt.endswith(f"Question: {QUESTION}\nAnswer:")
    assert len(prompt) < len(PROMPT) / 2
    assert reply.json()["choices"][0]["text"] == said(upstream.encode(prompt))
