"""Chats through a proxy that chooses tokens: what goes as ids, what as text, what is left alone."""

import json
import socket

import httpx
import openai
import pytest
from token_world import (
    DOCUMENT,
    FACTS,
    PROMPT,
    QUESTION,
    TEMPLATE,
    TOOL,
    URL,
    TokenUpstream,
    said,
    save_model,
    stage,
    wait_for,
)


def test_ids_go_and_a_chat_comes_back(door, tokenizer):
    world = door()
    reply = world.ask(temperature=0, max_tokens=9, stop=["\n"], seed=3)
    assert reply.status_code == 200
    assert stage(reply) == "ids"
    assert reply.headers["x-tokenprune-decision"] == "pruned"
    path, body = world.upstream.last
    assert path == "/v1/completions"
    assert {k: body[k] for k in ("max_tokens", "temperature", "stop", "seed", "model")} == {
        "max_tokens": 9,
        "temperature": 0,
        "stop": ["\n"],
        "seed": 3,
        "model": "m",
    }
    answer = reply.json()
    assert answer["object"] == "chat.completion"
    assert answer["id"] == "chatcmpl-7"
    choice = answer["choices"][0]
    assert choice["message"] == {"role": "assistant", "content": said(body["prompt"]), "refusal": None}
    assert choice["finish_reason"] == "stop"
    assert "text" not in choice
    assert answer["usage"]["prompt_tokens"] == len(body["prompt"])
    # All of the frame is there, in its order, and 60 tokens of the document.
    whole = world.upstream.ids({"messages": [{"role": "user", "content": PROMPT}]})
    frame_start = tokenizer("<|im_start|>user\nContext:\n")["input_ids"]
    frame_end = tokenizer(f"\n\nQuestion: {QUESTION}\nAnswer:<|im_end|>\n<|im_start|>assistant\n")[
        "input_ids"
    ]
    assert body["prompt"][: len(frame_start)] == frame_start
    assert body["prompt"][-len(frame_end) :] == frame_end
    assert len(body["prompt"]) <= len(frame_start) + len(frame_end) + 60 + 2
    rest = iter(whole)
    assert all(token in rest for token in body["prompt"]), "the kept ids are no subsequence of the prompt"
    before, after = (int(reply.headers[f"x-tokenprune-tokens-{name}"]) for name in ("before", "after"))
    assert before - after == len(whole) - len(body["prompt"])


def test_the_receipt_shows_kept_tokens_as_characters(door, tokenizer):
    world = door()
    reply = world.ask()
    receipt = httpx.get(f"{world.url}/v1/receipts/{reply.headers['x-tokenprune-receipt']}").json()
    assert receipt["query"].startswith(QUESTION.rstrip("?"))
    *_, result = receipt["results"]
    (document,) = result["receipts"]
    original = result["originals"]["messages.0.content#0"]
    assert original == DOCUMENT
    units = document["units"]
    assert [u["start"] for u in units] == [0, *(u["end"] for u in units[:-1])]
    assert units[-1]["end"] == len(DOCUMENT)
    assert {u["stage"] for u in units} == {"tokens:gemfilter-q"}
    kept = "".join(original[u["start"] : u["end"]] for u in units if u["kept"])
    assert kept == result["documents"][0]["text"]
    assert sum(u["tokens"] for u in units) == document["tokens_before"]
    assert sum(u["tokens"] for u in units if u["kept"]) == document["tokens_after"] <= 62
    # What the receipt says stayed is what the upstream read.
    read = tokenizer.decode(world.upstream.last[1]["prompt"])
    assert (
        read
        == f"<|im_start|>user\nContext:\n{kept}\n\nQuestion: {QUESTION}\nAnswer:<|im_end|>\n<|im_start|>assistant\n"
    )


def test_a_stream_has_the_shape_of_a_chat(door):
    world = door()
    reply, events = world.events(stream_options={"include_usage": True})
    assert stage(reply) == "ids"
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert {event["object"] for event in events} == {"chat.completion.chunk"}
    assert {event["id"] for event in events} == {"chatcmpl-7"}
    assert events[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    text = "".join(event["choices"][0]["delta"].get("content", "") for event in events if event["choices"])
    assert text == said(world.upstream.last[1]["prompt"])
    assert [e["choices"][0]["finish_reason"] for e in events if e["choices"]][-1] == "stop"
    assert events[-1]["choices"] == []
    assert events[-1]["usage"]["prompt_tokens"] == len(world.upstream.last[1]["prompt"])


def test_the_official_client_reads_it(door):
    world = door()
    with openai.OpenAI(base_url=f"{world.url}/v1", api_key="k", max_retries=0) as client:
        ask = {"model": "m", "messages": [{"role": "user", "content": PROMPT}], "n": 2}
        whole = client.chat.completions.create(**ask)
        assert [c.message.content for c in whole.choices] == [said(world.upstream.last[1]["prompt"])] * 2
        texts = {0: "", 1: ""}
        for event in client.chat.completions.create(**ask, stream=True):
            for choice in event.choices:
                texts[choice.index] += choice.delta.content or ""
        assert set(texts.values()) == {said(world.upstream.last[1]["prompt"])}


def test_the_length_of_the_answer_is_what_a_chat_may_have(door):
    world = door()
    world.ask()
    body = world.upstream.last[1]
    assert body["max_tokens"] == 4096 - len(body["prompt"])
    world.ask(max_completion_tokens=7, max_tokens=9)
    assert world.upstream.last[1]["max_tokens"] == 7


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"tools": [TOOL]}, "tools"),
        ({"logprobs": True}, "logprobs"),
        ({"response_format": {"type": "json_object"}}, "response-format"),
        ({"structured_outputs": {"regex": "a"}}, "structured-outputs"),
        ({"continue_final_message": True, "add_generation_prompt": False}, "continue-final-message"),
        ({"reasoning_effort": "low"}, "reasoning-effort"),
        ({"max_tokens": 0}, "max-tokens"),
        ({"something_new": 1}, "unknown-field"),
    ],
)
def test_what_only_a_chat_can_do_goes_as_text(door, more, why):
    world = door()
    reply = world.ask(**more)
    assert stage(reply) == f"text:{why}"
    assert reply.headers["x-tokenprune-decision"] == "pruned"
    path, body = world.upstream.last
    assert path == URL
    assert body | more == body
    assert "tokenprune" not in body
    content = body["messages"][0]["content"]
    assert content.startswith("Context:\n")
    assert content.endswith(f"\n\nQuestion: {QUESTION}\nAnswer:")
    assert len(content) < len(PROMPT) / 2
    assert [p for p, _ in world.upstream.requests] == [URL], "ids that cannot go need no comparison"


@pytest.mark.parametrize(
    "harmless", [{"tools": []}, {"logprobs": False}, {"metadata": {"a": "b"}}, {"user": None}]
)
def test_fields_that_ask_for_nothing_do_not_matter(door, harmless):
    assert stage(door().ask(**harmless)) == "ids"


def test_text_by_configuration(door):
    world = door(tokens={"send": "text"})
    assert stage(world.ask()) == "text:configured"
    assert [path for path, _ in world.upstream.requests] == [URL]


def test_the_render_route_is_asked_where_there_is_one(door, tokenizer):
    world = door(TokenUpstream(tokenizer, renders=True))
    assert stage(world.ask()) == "ids"
    paths = [path for path, _ in world.upstream.requests]
    assert paths.count(URL + "/render") == 2
    assert all("messages" not in body for path, body in world.upstream.requests if path == "/tokenize")
    without = door()
    without.ask()
    without.ask()
    assert [path for path, _ in without.upstream.requests].count(URL + "/render") == 1


def test_another_tokenizer_is_reported(door, tokenizer, caplog):
    class Other(TokenUpstream):
        def encode(self, text, special=False):
            return [i + 1 if i == 28 else i for i in super().encode(text, special)]

    world = door(Other(tokenizer))
    other = f"Context:\n{' '.join(reversed(FACTS))}\n\nQuestion: How old is the ferry?\nAnswer:"
    replies = [world.ask(), world.ask(messages=[{"role": "user", "content": other}])]
    assert [stage(reply) for reply in replies] == ["text:tokenizer-mismatch"] * 2
    assert world.upstream.last[0] == URL
    assert caplog.text.count("tokenizer is not") == 1, "said once, while it is believed"
    metrics = httpx.get(f"{world.url}/metrics").text
    assert 'tokenprune_token_selections_total{outcome="text:tokenizer-mismatch"} 2.0' in metrics


def test_another_template_is_reported(door, tmp_path, caplog):
    from tokenprune.models.causal_lm import load_tokenizer

    other = load_tokenizer(
        str(save_model(tmp_path / "other", TEMPLATE.replace("'<|im_end|>'", "'<|im_end|>\n'")))
    )
    reply = door(TokenUpstream(other)).ask()
    assert stage(reply) == "text:template-mismatch"
    assert "chat template differs" in caplog.text


def test_one_prompt_that_is_read_otherwise_goes_as_text(door, tokenizer):
    class Dated(TokenUpstream):
        def ids(self, body):
            return [1, *super().ids(body)] if "ferry" in str(body) else super().ids(body)

    world = door(Dated(tokenizer))
    assert stage(world.ask()) == "text:prompt-mismatch"


def test_a_server_that_takes_reasoning_out_of_chats_gets_text(door, tokenizer):
    upstream = TokenUpstream(tokenizer)
    upstream.reasons = True
    assert stage(door(upstream).ask()) == "text:answer-mismatch"


def test_a_server_that_does_not_tokenize_gets_text(door, tokenizer):
    upstream = TokenUpstream(tokenizer)
    upstream.no_tokenize = True
    reply = door(upstream).ask()
    assert stage(reply) == "text:no-tokenize"
    assert reply.json()["choices"][0]["message"]["content"] == said(upstream.ids(upstream.last[1]))


@pytest.mark.parametrize("fault", [400, 404, 422, "gzip"])
def test_refused_ids_go_as_text(door, tokenizer, fault):
    upstream = TokenUpstream(tokenizer)
    upstream.fault = fault
    reply = door(upstream).ask()
    assert (reply.status_code, stage(reply)) == (200, "text:refused")
    assert upstream.last[0] == URL
    assert reply.json()["choices"][0]["message"]["content"] == said(upstream.ids(upstream.last[1]))


@pytest.mark.parametrize("fault", [401, 429, 500, 503])
def test_other_errors_pass(door, tokenizer, fault):
    upstream = TokenUpstream(tokenizer)
    upstream.fault = fault
    reply = door(upstream).ask()
    assert (reply.status_code, stage(reply)) == (fault, "ids")
    assert reply.json()["error"]["message"] == "no"
    assert upstream.last[0] == "/v1/completions"


def test_an_error_in_the_middle_of_a_stream_passes(door, tokenizer):
    upstream = TokenUpstream(tokenizer)
    upstream.fault = "break"
    _, events = door(upstream).events()
    assert events[-1] == {"error": {"message": "lost", "code": 500}}


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_the_upstream(door, tokenizer, stream):
    upstream = TokenUpstream(tokenizer)
    upstream.fault = "hang"
    world = door(upstream)
    options = {"enabled": True}
    body = {
        "model": "m",
        "messages": [{"role": "user", "content": PROMPT}],
        "stream": stream,
        "tokenprune": options,
    }
    data = json.dumps(body).encode()
    host, port = world.url.removeprefix("http://").split(":")
    head = f"POST {URL} HTTP/1.1\r\nhost: h\r\ncontent-length: {len(data)}\r\n\r\n".encode()
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(head + data)
        wait_for(
            lambda: any(path == "/v1/completions" and len(b["prompt"]) > 80 for path, b in upstream.requests)
        )
    wait_for(upstream.left.is_set)
    assert upstream.last[0] == "/v1/completions", "no second try for a client that has left"


def test_it_follows_the_pipeline(door, tokenizer):
    lines = "\n".join(FACTS)
    content = f"Context:\n{lines}\n\nQuestion: How old is the ferry of Oslo?\nAnswer:"
    world = door(pipeline="default", tokens={"keep": 30})
    reply = world.ask(messages=[{"role": "user", "content": content}])
    assert stage(reply) == "ids"
    receipt = httpx.get(f"{world.url}/v1/receipts/{reply.headers['x-tokenprune-receipt']}").json()
    sentences, tokens = receipt["results"]
    (left,) = (document["text"] for document in sentences["documents"])
    assert list(tokens["originals"].values()) == [left]
    assert len(left) < len(lines)
    assert tokens["tokens_after"] <= 32
    assert int(reply.headers["x-tokenprune-tokens-before"]) == sentences["tokens_before"]
    assert int(reply.headers["x-tokenprune-tokens-after"]) == sentences["tokens_after"] - (
        tokens["tokens_before"] - tokens["tokens_after"]
    )


def test_only_documents_lose_tokens(door, tokenizer):
    world = door()
    call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"city": "Oslo"}'}}
    data = json.dumps({"rows": [{"city": "Oslo", "year": 1990}] * 30})
    messages = [
        {"role": "system", "content": "Rules of the house. " * 60},
        {"role": "user", "content": "What of the ferry?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": DOCUMENT},
        {"role": "tool", "tool_call_id": "c2", "content": data},
        {"role": "assistant", "content": "It is in Oslo. " * 60},
        {"role": "user", "content": QUESTION},
    ]
    reply = world.ask(messages=messages)
    assert stage(reply) == "ids"
    read = tokenizer.decode(world.upstream.last[1]["prompt"])
    for index in (0, 1, 4, 5, 6):
        assert messages[index]["content"] in read
    assert DOCUMENT not in read
    before, _, after = read.partition("<|im_start|>tool\n")
    assert before.endswith("Oslo<|im_end|>\n")
    assert len(after.partition("<|im_end|>")[0]) < len(DOCUMENT) / 2


def test_contexts_of_the_options_lose_tokens_too(door, tokenizer):
    world = door()
    reply = world.ask(
        messages=[{"role": "user", "content": QUESTION}],
        tokenprune={"contexts": [{"text": DOCUMENT}], "enabled": True},
    )
    assert stage(reply) == "ids"
    read = tokenizer.decode(world.upstream.last[1]["prompt"])
    assert read.startswith("<|im_start|>user\nContext:\n")
    assert QUESTION in read
    assert 100 < len(read) < len(DOCUMENT) / 2


@pytest.mark.parametrize(
    ("options", "server", "expected"),
    [
        ({}, {"tokens": {"keep": 5000}}, "skipped:fits-budget"),
        ({"query": "What does nobody ask here?"}, {}, "skipped:no-question"),
        ({"pipeline": "broken"}, {}, None),
        ({"enabled": False}, {}, None),
    ],
)
def test_what_is_left_alone(door, options, server, expected):
    world = door(**server)
    reply = world.ask(tokenprune=options)
    assert reply.headers.get("x-tokenprune-token-stage") == expected
    assert world.upstream.last[1]["messages"][0]["content"] == PROMPT


def test_html_and_a_short_question_are_left_alone(door):
    world = door()
    page = "<html><body>" + "".join(f"<p>{fact}</p>" for fact in FACTS) + "</body></html>"
    content = f"{page}\n\nQuestion: {QUESTION}"
    assert stage(world.ask(messages=[{"role": "user", "content": content}])) == "skipped:no-documents"
    reply = world.ask(messages=[{"role": "user", "content": "Hello."}])
    assert "x-tokenprune-token-stage" not in reply.headers


def test_too_slow_fails_open(door):
    world = door(tokens={"timeout_s": 0.001})
    reply = world.ask()
    assert stage(reply) == "failed:timeout"
    assert world.upstream.last[1]["messages"][0]["content"] == PROMPT


def test_a_slow_selection_is_not_worth_it(door):
    world = door()
    name = world.app.runtime.selector.name
    for _ in range(6):
        world.app.runtime.gate.costs.pruned(name, 700, 60.0, None)
    assert stage(world.ask(tokenprune={})) == "skipped:not-worth-it"
    assert stage(world.ask()) == "ids", "a request that asks for it gets it"


def test_single_tokens_fill_the_room_that_sentences_cannot(door):
    world = door(tokens={"keep": 9})
    assert stage(world.ask()) == "ids"
    by_token = door(tokens={"unit": "token"})
    assert stage(by_token.ask()) == "ids"
    whole = len(world.upstream.ids({"messages": [{"role": "user", "content": PROMPT}]}))
    short, longer = (len(w.upstream.last[1]["prompt"]) for w in (world, by_token))
    assert longer - short == 60 - 9
    assert longer < whole - 500


@pytest.mark.parametrize("method", ["gemfilter", "lazyllm", "gemfilter-q", "specprefill"])
def test_methods(door, method):
    options = {"near": 64} if method.startswith("gemfilter") else {"layer": None}
    if method == "gemfilter-q":
        options["narrow"] = 0.5
    world = door(tokens={"method": method} | options)
    reply = world.ask()
    assert stage(reply) == "ids"
    whole = len(world.upstream.ids({"messages": [{"role": "user", "content": PROMPT}]}))
    assert len(world.upstream.last[1]["prompt"]) < whole - 400


def test_a_draft_with_another_tokenizer_chooses(door, folder, tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = sorted(set(PROMPT.split()) | {"<unk>"})
    core = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    draft = tmp_path / "draft"
    PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>", model_max_length=2048).save_pretrained(
        draft
    )
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(words), **size)).save_pretrained(draft)
    world = door(tokens={"model": str(draft), "tokenizer": str(folder), "layer": 1})
    reply = world.ask()
    assert stage(reply) == "ids"
    assert len(world.upstream.last[1]["prompt"]) < 120


def test_answers_are_learned_from(door):
    world = door()
    world.ask()
    learned = httpx.get(f"{world.url}/v1/cost-model").json()
    assert learned["methods"]["tokens:gemfilter-q"]["observations"] == 1
    assert learned["models"]["m"]["observations"] == 1
