"""A request's own budget, where no pipeline prunes texts: the tokens hold it."""

import json

import httpx
import pytest
from token_world import DOCUMENT, FACTS, PROMPT, QUESTION, TOOL, TWO_TURNS, URL, TokenUpstream, stage

from tokenprune.tokens import get_counter
from tokenprune_server.app import create_app


def kept(world, reply):
    """Tokens of documents that stay, by the last receipt, and the text of the first."""
    stored = httpx.get(f"{world.url}/v1/receipts/{reply.headers['x-tokenprune-receipt']}").json()
    last = stored["results"][-1]
    return last["tokens_after"], last["documents"][0]["text"]


@pytest.mark.parametrize("server", [{"pipeline": "none"}, {"pipeline": "default"}])
@pytest.mark.parametrize(
    ("budget", "limit"), [({"max_tokens": 90}, 90), ({"max_tokens": 33}, 33), ({"keep_ratio": 0.2}, None)]
)
def test_it_is_the_number_of_tokens_that_stay(door, server, budget, limit):
    world = door(**server)
    named = {} if server["pipeline"] == "none" else {"pipeline": "none"}
    reply = world.ask(tokenprune=budget | named)
    assert stage(reply) == "ids"
    assert reply.headers["x-tokenprune-decision"] == "pruned"
    before, after = (int(reply.headers[f"x-tokenprune-tokens-{name}"]) for name in ("before", "after"))
    limit = int(0.2 * before) if limit is None else limit
    tokens, text = kept(world, reply)
    assert limit - 30 < tokens <= limit, "as many whole sentences as fit"
    assert after <= limit
    assert not DOCUMENT.startswith(text), "not the head of the text"
    ids = world.upstream.last[1]["prompt"]
    assert len(ids) - tokens == len(world.upstream.encode("<|im_start|>user\nContext:\n")) + len(
        world.upstream.encode(f"\n\nQuestion: {QUESTION}\nAnswer:<|im_end|>\n<|im_start|>assistant\n")
    )


@pytest.mark.parametrize("path", [URL, "/v1/completions"])
@pytest.mark.parametrize("unit", ["token", "sentence"])
def test_what_goes_as_text_is_counted_as_it_is_read(door, tokenizer, path, unit):
    """Pieces that are put together make other tokens than they were: those count, and hold the budget."""
    world = door(pipeline="none", tokens={"unit": unit, "send": "text"})
    document = " ".join(f"{fact}x {n}{n} re-{fact[::-1]}" for n, fact in enumerate(FACTS))
    content = f"Context:\n{document}\n\nQuestion: {QUESTION}\nAnswer:"
    reads = {"messages": [{"role": "user", "content": content}]} if path == URL else {"prompt": content}
    for limit in (60, 90, 91, 400):
        reply = world.ask(path, tokenprune={"max_tokens": limit}, **reads)
        assert stage(reply) == "text:configured"
        tokens, text = kept(world, reply)
        whole = tokenizer(f"Context:\n{text}\n\nQuestion:", return_offsets_mapping=True)["offset_mapping"]
        read = sum(a < 9 + len(text) and b > 9 for a, b in whole)
        assert int(reply.headers["x-tokenprune-tokens-after"]) == tokens == read <= limit


def test_a_pipeline_that_prunes_holds_it_itself(door):
    """The tokens then keep what they are set to keep."""
    world = door(pipeline="default", tokens={"keep": 30})
    lines = "\n".join(FACTS)
    content = f"Context:\n{lines}\n\nQuestion: How old is the ferry of Oslo?\nAnswer:"
    reply = world.ask(messages=[{"role": "user", "content": content}], tokenprune={"max_tokens": 90})
    assert stage(reply) == "ids"
    assert kept(world, reply)[0] <= 32


def test_documents_that_fit_stay_whole(door):
    reply = door(pipeline="none").ask(tokenprune={"max_tokens": 2000})
    assert stage(reply) == "skipped:fits-budget"
    assert reply.headers["x-tokenprune-decision"] == "skipped:fits-budget"


PAGE = "".join(f"<p>{fact}</p>" for fact in FACTS[:20])  # clean as it is


@pytest.mark.parametrize("room", [200, 900])
def test_what_cannot_lose_tokens_counts_as_it_is(door, tokenizer, room):
    """A page beside a text: where both do not fit, the budget is held as without a model that chooses."""
    world = door(pipeline="none")
    messages = [
        {"role": "tool", "tool_call_id": "a", "content": PAGE},
        {"role": "tool", "tool_call_id": "b", "content": DOCUMENT},
        {"role": "user", "content": QUESTION},
    ]
    size = len(tokenizer(PAGE)["input_ids"])
    assert 200 < size < 600
    reply = world.ask(messages=messages, tokenprune={"max_tokens": room})
    if room < size:
        assert stage(reply) == "skipped:no-room"
        sent = [message["content"] for message in world.upstream.last[1]["messages"][:2]]
        assert sum(get_counter().count_many(sent)) <= room
        assert int(reply.headers["x-tokenprune-tokens-after"]) <= room
    else:
        assert stage(reply) == "ids"
        assert PAGE in tokenizer.decode(world.upstream.last[1]["prompt"])
        assert room - size - 40 < kept(world, reply)[0] <= room - size
        assert int(reply.headers["x-tokenprune-tokens-after"]) <= room


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"query": "What does nobody ask here?"}, "skipped:no-question"),
        ({"max_tokens": 0}, "skipped:no-room"),
    ],
)
def test_it_holds_where_nothing_can_be_chosen(door, options, said):
    reply = (world := door(pipeline="none")).ask(tokenprune={"max_tokens": 50} | options)
    assert stage(reply) == said
    assert reply.headers["x-tokenprune-decision"] == "pruned"
    limit = options.get("max_tokens", 50)
    assert int(reply.headers["x-tokenprune-tokens-after"]) <= limit
    # What compares the tokenizers may still be asked.
    body = next(b for path, b in reversed(world.upstream.requests) if path == URL and QUESTION in str(b))
    assert len(body["messages"][0]["content"]) < len(PROMPT) - len(DOCUMENT) + 6 * limit + 1


def test_it_holds_while_the_model_loads(door):
    locks = []

    def hold(app):
        locks.append(app.runtime.selector._loading)
        locks[0].acquire()

    world = door(before=hold, pipeline="none")
    try:
        reply = world.ask(tokenprune={"max_tokens": 50})
    finally:
        locks[0].release()
    assert stage(reply) == "skipped:loading"
    assert reply.headers["x-tokenprune-decision"] == "pruned"
    assert int(reply.headers["x-tokenprune-tokens-after"]) <= 50


def test_contexts_and_a_growing_chat_share_it(door):
    world = door(pipeline="none")
    ask = [{"role": "user", "content": QUESTION}]
    reply = world.ask(messages=ask, tokenprune={"contexts": [{"text": DOCUMENT}], "max_tokens": 80})
    assert stage(reply) == "ids"
    assert kept(world, reply)[0] <= 80

    first = world.ask(tokenprune={"keep_ratio": 0.3}, tools=[TOOL])
    assert stage(first) == "text:tools"
    sent = world.upstream.last[1]["messages"][0]["content"]
    second = world.ask(messages=TWO_TURNS, tokenprune={"keep_ratio": 0.3}, tools=[TOOL])
    assert stage(second) == "text:tools"
    body = world.upstream.last[1]
    assert body["messages"][0]["content"] == sent
    before, after = (int(second.headers[f"x-tokenprune-tokens-{name}"]) for name in ("before", "after"))
    assert before > 1500
    assert after <= 0.3 * before
    assert len(json.dumps(body)) < len(json.dumps(TWO_TURNS)) / 2


class TestPromptsThatExceedTheModel:
    """The room that is left is a budget like any other: what chooses tokens holds it, or BM25 does."""

    @pytest.fixture
    def ask(self, door):
        def asked(room=700, before=None, **options):
            world = door(before=before, pipeline="none", default_output_tokens=16)
            world.upstream.max_model_len = room
            reply = world.ask(tokenprune={"enabled": True} | options)
            assert reply.status_code == 200
            assert reply.headers["x-tokenprune-decision"] == "pruned"
            return world, reply

        return asked

    @pytest.mark.parametrize("room", [400, 700])
    def test_the_tokens_are_chosen_of_the_whole(self, ask, room):
        world, reply = ask(room)
        assert stage(reply) == "ids"
        assert kept(world, reply)[0] <= 60, "as many as are set"
        assert int(reply.headers["x-tokenprune-tokens-before"]) > room

    def test_a_budget_beside_it_is_held(self, ask):
        world, reply = ask(700, max_tokens=90)
        assert stage(reply) == "ids"
        assert 60 < kept(world, reply)[0] <= 90

    def test_where_none_can_be_chosen_it_is_bm25_that_knows_the_question(self, ask):
        world, reply = ask(400, query="Which year saw the theatre of Hanoi open?")
        assert stage(reply) == "skipped:no-question"
        # What compares the tokenizers may still be asked.
        sent = next(b for path, b in reversed(world.upstream.requests) if path == URL and QUESTION in str(b))
        assert FACTS[-1] in sent["messages"][0]["content"]  # it stands last
        stored = httpx.get(f"{world.url}/v1/receipts/{reply.headers['x-tokenprune-receipt']}").json()
        (note,) = stored["results"][0]["receipts"][0]["notes"]
        assert note == "no tokens could be chosen under the budget: BM25 chose what fits"

    def test_without_a_choice_of_tokens_it_is_bm25_as_well(self, stand_in, serve, tokenizer):
        upstream = TokenUpstream(tokenizer)
        upstream.max_model_len = 400
        url = serve(create_app(stand_in(pipeline="none", default_output_tokens=16), serve(upstream)))
        content = PROMPT.replace(QUESTION, "Which year saw the theatre of Hanoi open?")
        reply = httpx.post(url + URL, json={"model": "m", "messages": [{"role": "user", "content": content}]})
        assert reply.headers["x-tokenprune-decision"] == "pruned"
        assert FACTS[-1] in upstream.last[1]["messages"][0]["content"]
        stored = httpx.get(f"{url}/v1/receipts/{reply.headers['x-tokenprune-receipt']}").json()
        (note,) = stored["results"][0]["receipts"][0]["notes"]
        assert "exceeds the model's context and its pipeline prunes nothing: BM25" in note


def test_what_the_pipeline_left_is_too_short_to_choose_of(door):
    lines = "\n".join(FACTS)
    content = f"Context:\n{lines}\n\nQuestion: How old is the ferry of Oslo?\nAnswer:"
    reply = door(pipeline="default", tokens={"keep": 10}).ask(
        messages=[{"role": "user", "content": content}], tokenprune={"max_tokens": 30}
    )
    assert reply.headers["x-tokenprune-decision"] == "pruned"
    assert stage(reply) == "skipped:below-min-tokens"


def test_half_a_character_is_no_failure(door):
    """As JSON can escape it; the budget is held without a choice of tokens."""
    world = door(pipeline="none")
    content = PROMPT.replace("Oslo was opened", "Oslo \\ud83d was opened")
    raw = json.dumps(
        {"model": "m", "messages": [{"role": "user", "content": content}], "tokenprune": {"max_tokens": 50}}
    ).replace("\\\\ud83d", "\\ud83d")
    headers = {"content-type": "application/json"}
    reply = httpx.post(world.url + URL, content=raw.encode(), headers=headers, timeout=60)
    assert stage(reply) == "skipped:not-text"
    assert int(reply.headers["x-tokenprune-tokens-after"]) <= 50
