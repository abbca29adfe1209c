"""The gate with shared documents, explicit requests, and upstreams of all kinds."""

import httpx
import pytest
from gate_world import (
    BLOCK,
    FOUR_QUESTIONS,
    NEW_EACH_TIME,
    URL,
    CachingUpstream,
    about,
    asks,
    chat,
    document,
    prompt,
    proxies,
    user,
)

from tokenprune.config import Config
from tokenprune.errors import ConfigError
from tokenprune_server.app import create_app
from tokenprune_server.curve import Curve
from tokenprune_server.gate import Gate, is_explicit
from tokenprune_server.options import Options
from tokenprune_server.protocols import BY_ROUTE
from tokenprune_server.settings import ServerSettings


@pytest.fixture
def start(serve):
    with proxies(serve) as begin:
        yield begin


class TestSharedDocuments:
    def test_new_passages_behind_a_shared_text_are_pruned(self, start):
        proxy = start()
        for n in (1, 2, 3):
            passages = f"[1]\n{document(70, 60)}\n\n[2]\n{document(n, 60)}"
            proxy.send(chat(user(prompt(passages, asks(n, 5)))))
        content = proxy.last["messages"][0]["content"]
        assert document(70, 60) in content
        assert "mark3x5 " in content
        assert "mark3x6 " not in content
        assert proxy.upstream.uncached[-1] < 60

    def test_passages_at_other_places_are_new(self, start):
        """Retrieval brings popular passages again and again, and no prefix cache can hold them."""
        proxy = start()
        for n in (1, 2, 3):
            passages = f"[1]\n{document(n, 60)}\n\n[2]\n{document(70, 60)}"
            proxy.send(chat(user(prompt(passages, asks(n, 5)))))
        assert proxy.decisions == ["pruned"] * 3
        assert max(proxy.upstream.uncached) < 100

    def test_cache_salt_and_model_separate(self, start):
        proxy = start()
        proxy.send(about(1, 2, cache_salt="a"))
        proxy.send(about(1, 3, cache_salt="b"))
        proxy.send({**about(1, 4, cache_salt="a"), "model": "n"})
        assert proxy.decisions == ["pruned"] * 3
        proxy.send(about(1, 5, cache_salt="a"))
        assert proxy.decisions[-1] == "skipped:shared"
        assert proxy.last["cache_salt"] == "a"

    def test_a_client_that_marks_its_prefix(self, start):
        proxy = start()
        part = {"type": "text", "text": document(1), "cache_control": {"type": "ephemeral"}}
        body = chat(user([part]), {"role": "assistant", "content": "Read."}, user(asks(1, 5)))
        proxy.send(body)
        assert proxy.last == body

    def test_pages_lose_what_no_question_needs(self, start):
        links = "".join(f'<li><a href="/{n}">Section number {n}</a></li>' for n in range(60))
        prose = "".join(
            f"<p>The harbour of mark1x{n} saw a lamp, a keeper and a stone bridge by the old river.</p>"
            for n in range(40)
        )
        page = f"<html><body><nav><ul>{links}</ul></nav><main><h1>Marks</h1>{prose}</main></body></html>"
        pipelines = {"default": {"pruners": ["htmlrag-bm25"], "budget": {"max_tokens": 150}}}
        proxy = start(config=Config(pipelines=pipelines, server={"reuse_prior": 0.0}))
        responses = [proxy.send(chat(user(f"{page}\n\n{asks(1, k)}"))) for k in (2, 3, 4)]
        first, second, third = (body["messages"][0]["content"] for body in proxy.upstream.bodies)
        assert proxy.decisions == ["pruned"] * 3
        assert "Section number 7" not in second
        assert all(f"mark1x{n} " in second for n in range(40)), "every question can be answered"
        assert first.count("mark1x") < 20
        assert second.removesuffix(asks(1, 3)) == third.removesuffix(asks(1, 4))
        assert proxy.upstream.uncached[2] < 2 * BLOCK
        assert "x-tokenprune-receipt" in responses[1].headers

    def test_a_page_that_is_expected_again_goes_without_its_boilerplate_from_the_beginning(self, start):
        prose = "".join(f"<p>{document(1, 110).splitlines()[k]}</p>" for k in range(0, 110))
        links = "".join(f'<li><a href="/{n}">Section number {n}</a></li>' for n in range(40))
        page = f"<html><body><nav><ul>{links}</ul></nav><main><h1>Marks</h1>{prose}</main></body></html>"
        proxy = start(config=Config(server={"reuse_prior": 1.0}))
        answers = [proxy.send(chat(user(f"{page}\n\n{asks(1, k)}"))) for k in (2, 3)]
        first, second = (body["messages"][0]["content"] for body in proxy.upstream.bodies)
        assert proxy.decisions == ["pruned"] * 2
        assert "Section number 7" not in first
        assert all(f"mark1x{k} " in first for k in range(110))
        assert first.removesuffix(asks(1, 2)) == second.removesuffix(asks(1, 3))
        assert "x-tokenprune-receipt" in answers[0].headers

    @pytest.mark.parametrize("reuse", [1.0, 0.0])
    def test_a_page_that_fits_without_its_boilerplate_goes_as_any_page(self, start, reuse):
        prose = "".join(f"<p>{document(1, 110).splitlines()[k]}</p>" for k in range(0, 110))
        links = "".join(f'<li><a href="/{n}">Section number {n}</a></li>' for n in range(400))
        page = f"<html><body><nav><ul>{links}</ul></nav><main><h1>Marks</h1>{prose}</main></body></html>"
        pipelines = {"default": {"pruners": ["htmlrag-bm25"], "budget": {"max_tokens": 150}}}
        server = {"reuse_prior": reuse, "max_model_len": 6000}
        proxy = start(config=Config(pipelines=pipelines, server=server))
        answer = proxy.send(chat(user(f"{page}\n\n{asks(1, 2)}")))
        said = proxy.last["messages"][0]["content"]
        assert int(answer.headers["x-tokenprune-tokens-before"]) > 6000
        assert "Section number 7<" not in said
        assert (said.count("mark1x") > 100) == (reuse == 1.0)
        receipt = httpx.get(f"{proxy.url}/v1/receipts/{answer.headers['x-tokenprune-receipt']}").json()
        stages = {unit["stage"] for unit in receipt["results"][0]["receipts"][0]["units"]}
        assert ("boilerplate" if reuse else "htmlrag-bm25") in stages
        assert "server-timing" in answer.headers

    @pytest.mark.parametrize(("name", "word"), [("bm25-sentences", "question"), ("magic", "magic")])
    def test_only_methods_without_a_question(self, stub, name, word):
        with pytest.raises(ConfigError, match=word):
            create_app(Config(server={"shared_pipeline": name}), stub.url)


class TestExplicitRequests:
    @pytest.mark.parametrize(
        "options",
        [
            {"enabled": True},
            {"max_tokens": 60},
            {"keep_ratio": 0.1},
            {"method": "default"},
            {"output": "text"},
        ],
    )
    def test_are_obeyed(self, start, options):
        proxy = start(prefill_tokens_per_s=1e9)
        for k in (2, 3, 4):
            proxy.send(about(1, k, tokenprune=options))
            assert f"mark1x{k} " in proxy.last["messages"][0]["content"]
            assert f"mark1x{k + 1} " not in proxy.last["messages"][0]["content"]
        assert proxy.decisions == ["pruned"] * 3

    @pytest.mark.parametrize("options", [{}, {"pipeline": None}, {"enabled": False}])
    def test_nothing_asked_is_not_explicit(self, options):
        assert not is_explicit(Options(**options))

    def test_another_method_is_another_request(self, start):
        proxy = start()
        proxy.send(about(1, 2))
        proxy.send(about(1, 2, tokenprune={"method": "drop-all"}))
        assert "mark1x2 saw" not in proxy.last["messages"][0]["content"]

    def test_a_budget_holds_for_all_turns(self, start):
        proxy = start()
        options = {"max_tokens": 60}
        messages = []
        for n in range(3):
            messages.append(user(prompt(document(n, 60), asks(n, 3))))
            response = proxy.send(chat(*messages, tokenprune=options))
            assert int(response.headers["x-tokenprune-tokens-after"]) <= 60
            assert f"mark{n}x3 " in proxy.last["messages"][-1]["content"]
            messages.append({"role": "assistant", "content": "Hm."})

    def test_a_prompt_too_long_is_pruned_whatever_it_costs(self, start):
        proxy = start(prefill_tokens_per_s=1e9, max_model_len=1000)
        proxy.send(about(1, 2))
        proxy.send(about(1, 3))
        assert proxy.decisions == ["pruned", "pruned"]


class TestWorthIt:
    def test_at_first_four_hundred_tokens_are(self, start):
        proxy = start()
        response = proxy.send(chat(user(prompt(document(1, 24), asks(1, 3)))))
        assert 300 < int(response.headers["x-tokenprune-tokens-before"]) <= 400
        assert proxy.decisions == ["pruned"]

    def test_a_fast_upstream_is_left_alone(self, start):
        proxy = start(CachingUpstream(Curve(0.05, 1e-8)))
        for n in range(4):
            proxy.send(about(n, 3))
            proxy.send(chat(user(prompt(document(n + 20), "Summarize the text."))))
        proxy.send(about(11, 3))
        assert proxy.decisions == ["pruned", *proxy.decisions[1:-1], "skipped:not-worth-it"]
        assert proxy.last == about(11, 3)
        model = proxy.client.get(f"{proxy.url}/v1/cost-model").json()["models"]["m"]
        assert model["prefill"]["per_token_s"] < 2e-5

    def test_an_upstream_without_a_cache_is_noticed(self, start):
        proxy = start(CachingUpstream(caches=False, reports=False))
        for k in range(8):
            proxy.send(about(1, k))
        assert proxy.decisions[:2] == ["pruned", "skipped:shared"]
        assert proxy.decisions[-1] == "pruned"

    def test_a_silent_upstream_with_a_cache_is_noticed(self, start):
        proxy = start(CachingUpstream(reports=False))
        for k in range(6):
            proxy.send(about(1, k, stream=True))
        assert proxy.decisions[2:] == ["skipped:shared"] + ["skipped:cached"] * 3 or set(
            proxy.decisions[2:]
        ) == {"skipped:cached"}
        assert max(proxy.upstream.uncached[2:]) < 2 * BLOCK

    def test_streams_stay_as_they_are(self, start):
        proxy = start()
        body = about(1, 3, stream=True, stream_options={"include_usage": True})
        through = proxy.send(body).content
        direct = httpx.post(proxy.url + "/upstream" + URL, json=proxy.last).content
        cut = b'"prompt_tokens_details"'
        assert through.split(cut)[0] == direct.split(cut)[0]
        assert through.endswith(b"data: [DONE]\n\n")

    def test_off_prunes_always_and_learns_nothing(self, start):
        proxy = start(gate="off")
        for k in (2, 3):
            proxy.send(about(1, k))
        assert proxy.decisions == ["pruned", "pruned"]
        shown = proxy.client.get(f"{proxy.url}/v1/cost-model").json()
        assert (shown["gate"], shown["models"]) == ("off", {})

    def test_predictions_are_compared_with_what_happened(self, start):
        proxy = start()
        for body in [*NEW_EACH_TIME[:3], *FOUR_QUESTIONS[:4]]:
            proxy.send({**body, "stream": True, "stream_options": {"include_usage": True}})
        metrics = proxy.client.get(f"{proxy.url}/metrics").text
        values = dict(line.rsplit(" ", 1) for line in metrics.splitlines() if not line.startswith("#"))
        assert float(values['tokenprune_saved_seconds_count{source="observed"}']) == 4
        assert float(values['tokenprune_saved_seconds_sum{source="observed"}']) > 0
        reported = float(values['tokenprune_cached_tokens_total{source="reported"}'])
        assert reported > 2000
        assert float(values['tokenprune_cached_tokens_total{source="predicted"}']) > reported / 2


def test_completions(start):
    proxy = start()
    texts = [prompt(document(n, 60), asks(n, 3)) for n in (1, 2)]
    for body in ({"prompt": texts}, {"prompt": [texts[0]]}, {"prompt": texts}):
        response = proxy.client.post(proxy.url + "/v1/completions", json={"model": "m", **body})
        assert response.headers["x-tokenprune-decision"] == "pruned"
    sent = [body["prompt"] for body in proxy.upstream.bodies]
    assert sent[0] == sent[2]
    assert sent[1] == sent[0][:1]


def test_turns_of_the_protocols():
    body = chat(
        {"role": "system", "content": "Be brief."},
        user([{"type": "text", "text": "A", "cache_control": {}}, {"type": "image_url", "image_url": {}}]),
        {"role": "assistant", "tool_calls": [{"id": "c"}]},
        7,
        tools=[{"a": 1}],
    )
    (turns,) = BY_ROUTE[URL].prompts(body)
    assert [turn.role for turn in turns] == ["system", "system", "user", "assistant", ""]
    assert [turn.marked for turn in turns] == [False, False, True, False, False]
    assert turns[2].path == ("messages", 1)
    assert [path for path, _ in turns[2].pieces] == [(), ("messages", 1, "content", 0, "text"), ()]
    completions = BY_ROUTE["/v1/completions"]
    assert [turn.path for (turn,) in completions.prompts({"prompt": ["a", 3, "b"]})] == [
        ("prompt", 0),
        ("prompt", 2),
    ]
    assert completions.prompts({"prompt": [1, 2]}) == []


def test_a_request_that_is_only_remembered_keeps_no_text():
    gate = Gate(ServerSettings())
    record = gate.untouched(BY_ROUTE[URL], about(1, 2), Options())
    gate.ledger.commit(record)
    assert 0 < gate.ledger.size < 2000
