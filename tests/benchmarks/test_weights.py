"""Benchmarks of pruned weights: their parts, on a stub of a server and on a tiny model."""

import asyncio
import json
import threading

import pytest
import torch
from aiohttp import web
from pruned_models import tiny

from benchmarks.common.store import Store
from benchmarks.weights import recovery, serving, together
from tokenprune.errors import MeasureError

ASKED = [
    {
        "id": f"q{i}",
        "question": "who?",
        "answer": "me",
        "full": "word " * 400,
        "pruned": "word " * 100,
        "prune_ms": 3.0,
    }
    for i in range(3)
]


@pytest.fixture
def stub():
    """A server whose first token takes a time that follows the prompt's length."""
    seen = []

    async def models(request):
        return web.json_response({"data": [{"id": "model"}]})

    async def chat(request):
        body = await request.json()
        words = len(body["messages"][0]["content"].split())
        seen.append(words)
        if words > 5000:
            return web.json_response({"error": {"message": "too long"}}, status=400)
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await asyncio.sleep(words / 8000)
        count = body["max_tokens"]
        token = {"choices": [{"delta": {"content": "a"}, "finish_reason": None, "index": 0}]}
        end = {"choices": [{"delta": {"content": "a"}, "finish_reason": "length", "index": 0}]}
        usage = {"choices": [], "usage": {"prompt_tokens": words, "completion_tokens": count}}
        for n, chunk in enumerate([*[token] * (count - 1), end, usage]):
            await asyncio.sleep(0.003 if n else 0)
            await response.write(f"data: {json.dumps(chunk)}\n\n".encode())
        await response.write(b"data: [DONE]\n\n")
        return response

    app = web.Application()
    app.router.add_get("/v1/models", models)
    app.router.add_post("/v1/chat/completions", chat)
    started, loop, url = threading.Event(), asyncio.new_event_loop(), []

    async def start():
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        url.append(f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}")
        started.set()
        return runner

    def work():
        runner = loop.run_until_complete(start())
        loop.run_forever()
        loop.run_until_complete(runner.cleanup())
        loop.close()

    thread = threading.Thread(target=work)
    thread.start()
    assert started.wait(10)
    yield url[0], seen
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)


def test_the_four_combinations(stub, tmp_path):
    url, seen = stub
    store = Store(tmp_path / "together.jsonl")
    nll = {"dense|full": 3.0, "dense|pruned": 2.5, "pruned|full": 3.5, "pruned|pruned": 3.2}
    for key, value in nll.items():
        for case in ASKED:
            store.put(f"nll|{key}|{case['id']}", value)
    store.close()
    text = together.run(ASKED, ("a", "b"), (url, url), 2, tmp_path)
    assert len(seen) == 2 + 2 * 2 * 2 * 3  # a warm-up for each model; models, contexts, rounds, questions
    assert seen[1:7] == [403, 103] * 3  # in turn
    rows = json.loads((tmp_path / "together.json").read_text())["rows"]
    assert [(r["model"], r["context"], r["nll"], r["n"]) for r in rows] == [
        ("dense", "full", 3.0, 3),
        ("dense", "pruned", 2.5, 3),
        ("pruned", "full", 3.5, 3),
        ("pruned", "pruned", 3.2, 3),
    ]
    assert rows[0]["speedup"] == 1.0 and rows[1]["speedup"] > 1.2
    assert rows[1]["tokens"] == 103 and rows[1]["prune_ms"] == 3.0 and rows[0]["prune_ms"] == 0.0
    assert "| pruned | pruned | 103 |" in text and (tmp_path / "together.png").stat().st_size > 1000
    count = len(seen)
    assert together.run(ASKED, ("a", "b"), (), 2, tmp_path) == text  # all is known: nothing is served
    assert len(seen) == count


def test_a_refused_prompt_ends_it(stub, tmp_path):
    url, _ = stub
    store = Store(tmp_path / "s.jsonl")
    long = [ASKED[0] | {"full": "word " * 6000}]
    with pytest.raises(MeasureError, match=r"too long|400"):
        asyncio.run(together.times(url, long, 1, store, "dense"))
    store.close()


def test_served_beside_the_dense_model(stub):
    url, seen = stub
    texts = ["word " * n for n in (90, 160, 240, 320)]
    row = serving.compare(url, f"{url}/", texts, 4)
    assert seen == [90, 90, 160, 160, 240, 240, 320, 320]  # both in turn, every round another text
    assert row["rounds"] == 3 and row["tokens"] == 240  # the first only warms up
    assert row["ttft"][0] >= 240 / 8000 and row["ttft_ratio_ci"][0] <= row["ttft_ratio"]
    assert 0 < row["per_second"][1] < 1 / 0.003
    named = row | {"name": "half", "parameters": 0.5, "operations": 1.9}
    assert "| half | 50% | 1.90 |" in serving.table([named])


def test_a_server_that_sends_one_token_cannot_be_timed(stub):
    url, _ = stub
    with pytest.raises(MeasureError, match="stream of tokens"):
        asyncio.run(serving.ask(url, "word", 1))


def test_curves(tmp_path, monkeypatch):
    dense = tiny()
    g = torch.Generator().manual_seed(0)
    text = torch.randint(3, 12, (6, 24), generator=g)
    monkeypatch.setattr(
        recovery, "WAYS", {k: recovery.replace(v, lr=3e-3, batch=2) for k, v in recovery.WAYS.items()}
    )
    recovery.Recovery("full", steps=40, lr=3e-3).run(dense, text)
    settings = {
        "recipe": "wanda-sp",
        "sparsity": 0.25,
        "minutes": 0.0,
        "ways": ["perp", "distill"],
        "points": 2,
    }
    before = {k: v.clone() for k, v in dense.state_dict().items()}
    result = recovery.curves(dense, text, text, text, settings, tmp_path)
    assert all(torch.equal(before[k], v) for k, v in dense.state_dict().items())
    assert result["pruned"] > result["dense"]
    for curve in result["curves"].values():
        assert [p["step"] for p in curve["points"]] == [0, 2, 4]
        minutes = [p["minutes"] for p in curve["points"]]
        assert minutes == sorted(minutes) and minutes[-1] > 0
    stamp = (tmp_path / "recovery.json").read_text()
    assert recovery.curves(dense, text, text, text, settings, tmp_path)["curves"] == result["curves"]
    assert (tmp_path / "recovery.json").read_text() == stamp
    recovery.draw(result, tmp_path / "c.png")
    assert (tmp_path / "c.png").stat().st_size > 1000
    assert "| distill | 4 |" in recovery.table(result)
    assert recovery.won_back(result, result["dense"]) == pytest.approx(1.0)
    assert recovery.won_back(result, (result["dense"] * result["pruned"]) ** 0.5) == pytest.approx(0.5)


def test_a_stopped_curve_goes_on(tmp_path):
    curve = {
        "steps": 100,
        "seconds_per_step": 2.0,
        "points": [{"step": s, "minutes": s / 30} for s in (0, 20, 40)],
    }
    watch = recovery.Watch(None, None, 20, curve, lambda: None)
    watch.stage("recovery", 100)
    watch.update(25)
    assert [p["step"] for p in curve["points"]] == [0, 20]
    assert watch.before == pytest.approx(20 * 2 + 5 * 2)


def test_help_can_be_written():
    assert "--urls" in together.parser().format_help()
    assert "--minutes" in recovery.parser().format_help()
