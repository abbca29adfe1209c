"""The whole of `bench ttft` against stubs whose times are known: the report must recover them."""

import json
import re

import numpy as np
import pytest

from tokenprune.bench.plan import Salts, under_load
from tokenprune.bench.rows import SIDES
from tokenprune.errors import ConfigError, MeasureError
from tokenprune.models.catalog import UnknownModelError

# ms: 2 (a + b n + c n^2); break-even by hand where 0.035 n + 1.875e-5 n^2 = 16, i.e. n = 380
MODEL = {"a": 10.0, "b": 0.06, "c": 2e-5}
PROXY = MODEL | {"keep": 0.25, "prune_ms": lambda n: 16 + 0.01 * n}
BREAK_EVEN = 380
LENGTHS = [200, 260, 330, 430, 560, 730, 950, 1230, 1600, 2000]


def known(stub, percentile):
    # The salt is a word more.
    return float(np.percentile([stub.ttft(n + 1) for n in LENGTHS], percentile))


@pytest.fixture
def cases(make_case):
    return [make_case(f"c{n}", n) for n in LENGTHS]


def test_known_times_are_recovered(stub, measured, cases, clock):
    model, proxy = stub(**MODEL, clock=clock), stub(**PROXY, clock=clock)
    report, screen, html = measured(model.url, f"{proxy.url}/v1/", cases, rounds=2, goodput={"ttft": 60.0})
    direct, pruned = report["direct"], report["pruned"]
    assert report["pairs"] == 20 and report["cases"] == 10
    for figures, server in ((direct, model), (pruned, proxy)):
        for key, percentile in (("median", 50), ("p50", 50), ("p90", 90), ("p99", 99)):
            # Every length was measured twice, which moves percentiles between two lengths a little.
            both = [server.ttft(n + 1) for n in LENGTHS for _ in range(2)]
            assert figures[f"{key}_ttft_ms"] == pytest.approx(np.percentile(both, percentile), abs=1e-3)
            assert figures[f"{key}_itl_ms"] == pytest.approx(1.0, abs=1e-3)
        assert figures["mean_ttft_ms"] == pytest.approx(np.mean(both), abs=1e-3)
        assert figures["median_e2el_ms"] == pytest.approx(np.median(both) + 2, abs=1e-3)
        assert figures["median_tpot_ms"] == pytest.approx(2 / 3, abs=1e-3)
        assert (figures["completed"], figures["failed"]) == (20, 0)
        assert figures["total_output_tokens"] == 20 * 4
        seconds = sum(both) / 1e3 + 20 * 0.002
        assert (figures["duration"], figures["request_throughput"]) == pytest.approx((seconds, 20 / seconds))
    assert direct["total_input_tokens"] == 2 * sum(n + 1 for n in LENGTHS)
    assert pruned["total_input_tokens"] == 2 * sum(round(0.25 * (n + 1)) for n in LENGTHS)
    good = sum(model.ttft(n + 1) <= 60 for n in LENGTHS)
    assert direct["request_goodput"] == pytest.approx(2 * good / direct["duration"])
    assert report["ttft_ratio"] == pytest.approx(known(model, 50) / known(proxy, 50), rel=1e-4)
    assert report["ttft_ratio_ci"][0] < report["ttft_ratio"] < report["ttft_ratio_ci"][1]
    gaps = [proxy.ttft(n + 1) - model.ttft(n + 1) for n in LENGTHS]
    assert report["ttft_difference_ms"] == pytest.approx(np.median(gaps), abs=1e-3)
    assert report["tokens_kept"] == pytest.approx(0.25, abs=0.001)
    assert report["break_even"]["status"] == "measured"
    assert report["break_even_tokens"] == pytest.approx(BREAK_EVEN, rel=0.01)
    ideal = np.median([proxy.ttft(n + 1) - proxy.prune_ms(n + 1) for n in LENGTHS])
    assert report["efficiency"] == pytest.approx(ideal / known(proxy, 50), rel=1e-3)
    assert report["decisions"] == {"pruned": 20}
    assert report["quality"]["direct"] == {
        "em": 0, "f1": 0.5, "contains_answer": 1, "answers": 20,
        "evidence_recall": None, "evidence_recall_n": 0, "nll": None, "nll_n": 0,
    }  # fmt: skip
    assert [part["name"] for part in report["by_round"]] == ["round 1", "round 2"]
    assert report["by_length"][-1]["ttft_ratio"] > 1.5 > 1 > report["by_length"][0]["ttft_ratio"]
    for side in SIDES:
        assert len([r for r in report["rows"] if r["side"] == side]) == 20
    assert "pruning pays from about" in screen and "pruning pays from about" in html
    assert html.count("<svg") == 5 and "<script" not in html and "<link" not in html
    assert report["settings"]["model"] == "stub-model" and report["versions"]["server"] == "stub 1"
    assert "api_key" not in report["settings"]


def test_real_time_is_seen(stub, measured, cases):
    model, proxy = stub(a=150, gap_ms=20), stub(a=10, gap_ms=20, keep=0.5, prune_ms=lambda n: 5.0)
    report, _, _ = measured(model.url, proxy.url, cases[:3])
    assert report["direct"]["median_ttft_ms"] > 150 and report["pruned"]["median_ttft_ms"] > 15
    assert report["direct"]["median_e2el_ms"] > 190 and report["direct"]["mean_itl_ms"] > 10


def test_the_two_routes_take_turns(stub, measured, cases):
    server, proxy = stub(), stub(keep=0.5, prune_ms=lambda n: 0.0)
    report, _, _ = measured(server.url, proxy.url, cases[:4], rounds=2, warmup=0)
    rows = report["rows"]
    assert all(
        a["case"] == b["case"] and a["side"] != b["side"] for a, b in zip(rows[::2], rows[1::2], strict=True)
    )
    first = [row["side"] for row in rows[::2]]
    assert first[:4] in (["direct", "pruned"] * 2, ["pruned", "direct"] * 2)
    assert first[4:] == [SIDES[1 - SIDES.index(side)] for side in first[:4]]
    sent = [r["messages"][0]["content"].split("\n")[0] for r in server.requests + proxy.requests]
    assert len(set(sent)) == len(sent) and {len(line) for line in sent} == {14}
    assert server.flight["most"] == proxy.flight["most"] == 1


def test_slower_when_pruned_is_said_so(stub, measured, cases, clock):
    model = stub(a=5, b=0.01, clock=clock)
    proxy = stub(a=5, b=0.01, keep=0.9, prune_ms=lambda n: 40.0, clock=clock)
    report, screen, html = measured(model.url, proxy.url, cases[:8])
    assert report["ttft_ratio_ci"][1] < 1 and report["ttft_difference_ms"] == pytest.approx(39.3, abs=0.3)
    assert report["break_even_tokens"] is None and report["break_even"]["status"] in (
        "never",
        "above-measured",
    )
    for text in (screen, html):
        assert "Pruning is SLOWER" in text and "times longer" in text
        # sentence and interval in one direction
        said = re.search(r"TTFT is ([\d.]+) times longer .*?factor: ([\d.]+) to ([\d.]+)", text)
        factor, low, high = map(float, said.groups())
        assert 1 < low <= factor <= high
        assert "does not pay at any length" in text
        assert "8 were slower than unpruned" in text


def test_skipped_requests_say_nothing_about_pruning(stub, measured, cases, clock):
    model, proxy = stub(**MODEL, clock=clock), stub(**PROXY, least=400, clock=clock)
    report, screen, _ = measured(model.url, proxy.url, cases)
    assert report["decisions"] == {"pruned": 7, "skipped:below-min-tokens": 3}
    assert report["regret"]["skipped"] == 3 and report["regret"]["against_always_ms"] is None
    assert report["break_even"]["measured"] == [431, 2001]
    assert report["break_even"]["status"] == "below-measured"
    assert report["break_even_tokens"] == pytest.approx(BREAK_EVEN, rel=0.02)
    assert "--always would have shown" in screen


def test_the_third_route_shows_what_the_decisions_gain(stub, measured, cases, clock):
    model, proxy = stub(**MODEL, clock=clock), stub(**PROXY, least=400, clock=clock)
    report, screen, html = measured(model.url, proxy.url, cases, always=True, warmup=0)
    asked = [r.get("tokenprune") for r in proxy.requests]
    assert asked.count({"enabled": True}) == asked.count(None) == len(cases) == len(model.requests)
    assert {row["side"] for row in report["rows"]} == {"direct", "pruned", "always"}
    # A proxy remembers what it read: the third route asks in words that the second did not use.
    told = [
        {
            json.dumps(r["messages"]).partition("]")[2]
            for r in proxy.requests
            if bool(r.get("tokenprune")) == forced
        }
        for forced in (True, False)
    ]
    assert not told[0] & told[1]
    assert report["pairs"] == 10 and report["pruned"]["completed"] == 10
    # What the proxy left alone it would have made slower: below the break-even length.
    skipped = [n for n in LENGTHS if n + 1 < 400]
    forced = stub(**PROXY)  # not used but for its formula
    loss = sum(forced.ttft(n + 1) - model.ttft(n + 1) for n in skipped)
    assert report["regret"]["against_always_ms"] == pytest.approx(-loss / len(cases), abs=0.5)
    assert report["regret"]["regret_ms"] == pytest.approx(0, abs=0.3)
    for text in (screen, html):
        assert "Against always pruning: " in text and "known afterwards" in text


def test_all_figures_are_of_the_same_requests(stub, measured, make_case, clock):
    """Prompts too long for the direct route are longer than those that both answered."""
    faults = {f"f{n}": "too-long" for n in range(3)}
    model = stub(**MODEL, clock=clock, faults=faults)
    proxy = stub(**PROXY, clock=clock)
    cases = [make_case(f"c{n}", 400) for n in range(5)] + [make_case(name, 4000) for name in faults]
    report, _, _ = measured(model.url, proxy.url, cases, warmup=0)
    assert (report["pairs"], report["rescued"]) == (5, 3)
    assert (report["direct"]["completed"], report["pruned"]["completed"]) == (5, 8)
    ratio = report["direct"]["median_ttft_ms"] / report["pruned"]["median_ttft_ms"]
    assert ratio == pytest.approx(report["ttft_ratio"], rel=1e-6)
    assert report["quality"]["direct"]["answers"] == report["quality"]["pruned"]["answers"]


def test_a_wrong_model_for_the_likelihood_costs_no_request(stub, measured, cases):
    model = stub(**MODEL)
    with pytest.raises(UnknownModelError, match="smolm2-135m"):
        measured(model.url, stub(**PROXY).url, cases, nll="smolm2-135m")
    assert not model.requests


def test_errors_are_kept_and_not_measured(stub, measured, make_case):
    faults = {
        "f-busy": "busy", "f-long": "too-long", "f-plain": "plain", "f-slow": "slow", "f-mid": "mid-stream",
        "f-cut": "cut", "f-broken": "broken",
    }  # fmt: skip
    model, proxy = stub(faults=faults), stub(keep=0.5, prune_ms=lambda n: 0.0)
    cases = [make_case(name, 50) for name in ("good", *faults)]
    report, screen, html = measured(model.url, proxy.url, cases, timeout_s=4.0, warmup=0)
    kinds = {row["case"]: row["error_kind"] for row in report["rows"] if row["side"] == "direct"}
    assert kinds == {
        "good": None, "f-busy": "http", "f-long": "too-long", "f-plain": "stream", "f-slow": "timeout",
        "f-mid": "stream", "f-cut": "cut", "f-broken": "cut",
    }  # fmt: skip
    assert (report["direct"]["completed"], report["direct"]["failed"]) == (1, 7)
    assert report["pairs"] == 1 and report["ttft_ratio_ci"] is None
    assert report["rescued"] == 1
    messages = " ".join(error["message"] for error in report["errors"])
    for part in ("come again", "maximum context length", "the engine died", "without finish_reason", "4 s"):
        assert part in messages and part in screen and part in html
    assert screen.count("failed (direct") == 7


def test_under_load_one_route_at_a_time(stub, measured, cases):
    model, proxy = stub(a=100), stub(a=100, keep=0.5, prune_ms=lambda n: 5.0)
    report, _, _ = measured(model.url, proxy.url, cases, concurrency=4, rounds=2, warmup=0)
    assert model.flight["most"] == proxy.flight["most"] == 4
    blocks = [[row["side"] for row in report["rows"]][i : i + 10] for i in range(0, 40, 10)]
    assert all(len(set(block)) == 1 for block in blocks)
    assert blocks[0] == blocks[3] != blocks[1] == blocks[2]
    # four at a time: the route was at work for less time than its requests took
    took = sum(row["e2el_ms"] for row in report["rows"] if row["side"] == "direct") / 1e3
    assert report["direct"]["duration"] < 0.6 * took


def test_nothing_is_sent_before_it_arrives(stub, measured, cases):
    model, proxy = stub(), stub(keep=0.5, prune_ms=lambda n: 0.0)
    report, _, _ = measured(model.url, proxy.url, cases, rate=20.0, rounds=1, warmup=0)
    for block in under_load(cases, 1, "cold", Salts(0), 0, 20.0):
        planned = {send.case.id: 1e3 * send.at_s for lane in block.lanes for send in lane}
        rows = {row["case"]: row["started_ms"] for row in report["rows"] if row["side"] == block.side}
        assert all(rows[name] >= at - 1 for name, at in planned.items())


def test_warm_cache_keeps_routes_and_rounds_apart(stub, measured, make_case):
    model, proxy = stub(), stub(keep=0.5, prune_ms=lambda n: 0.0)
    cases = [make_case(f"{g}{i}", 60, group=g) for i in range(2) for g in "ab"]
    report, screen, _ = measured(model.url, proxy.url, cases, cache="warm", rounds=2, warmup=0)
    lines = [[r["messages"][0]["content"].split("\n")[0] for r in s.requests] for s in (model, proxy)]
    assert [len(set(of[:4])) for of in lines] == [1, 1] == [len(set(of[4:])) for of in lines]
    assert len({of[i] for of in lines for i in (0, 4)}) == 4
    order = [r["case"] for r in report["rows"] if r["side"] == "direct" and r["round"] == 0]
    assert order == ["a0", "a1", "b0", "b1"]
    assert report["break_even"]["status"] == "unknown"
    assert {part["name"]: part["pairs"] for part in report["by_position"]} == {
        "first": 4,
        "later": 4,
    }
    assert "By position in the group" in screen and re.search(r"^later +\d/4 ", screen, re.M)


def test_a_warm_cache_that_holds_nothing_is_said(stub, measured, make_case):
    model, proxy = stub(), stub(keep=0.5, prune_ms=lambda n: 0.0)
    cases = [make_case(name, 60, group=name) for name in "abc"]
    _, screen, _ = measured(model.url, proxy.url, cases, cache="warm", warmup=0)
    assert "no case finds anything sent before although --cache warm" in screen


def test_a_warm_cache_takes_whole_groups(stub, measured, make_case):
    model, proxy = stub(), stub(keep=0.5, prune_ms=lambda n: 0.0)
    cases = [make_case(f"{g}{i}", 60, group=g) for g, i in ("a0", "b0", "c0", "b1", "c1")]
    report, screen, _ = measured(model.url, proxy.url, cases, cache="warm", warmup=0, limit=3)
    order = [r["case"] for r in report["rows"] if r["side"] == "direct"]
    assert order == ["b0", "b1", "c0"] and "no case finds anything" not in screen


def test_few_cases_have_no_tail_and_no_interval(stub, measured, cases):
    model, proxy = stub(), stub(keep=0.5, prune_ms=lambda n: 0.0)
    report, screen, _ = measured(model.url, proxy.url, cases[:4], warmup=0)
    assert report["ttft_ratio_ci"] is None and report["break_even"]["ci"] is None
    assert "fewer than 5 cases do not say how sure that is" in screen and "(95%:" not in screen
    assert not re.search(r"\(\d+\.\d\d-\d+\.\d\d\)", screen)
    for line in screen.splitlines():
        if "p99, ms" in line:
            assert line.split()[-2:] == ["-", "-"]
    assert "TTFT p99, ms" in screen
    report, screen, _ = measured(model.url, proxy.url, cases, rounds=2, warmup=0)
    assert report["ttft_ratio_ci"] is not None and f"{report['direct']['p99_ttft_ms']:.1f}" in screen


def test_a_folder_that_cannot_be_written_costs_no_request(stub, measured, cases, tmp_path):
    model = stub()
    (tmp_path / "out").write_text("a file")
    with pytest.raises(ConfigError, match=r"cannot write the report to .*out: File exists; give --out"):
        measured(model.url, model.url, cases)
    assert model.requests == []


def test_a_proxy_that_remembers_is_noticed(stub, measured, cases, clock):
    seen = set()

    def prune(n):
        fresh, _ = n not in seen, seen.add(n)
        return 20.0 if fresh else 1.0

    model, proxy = stub(clock=clock), stub(keep=0.5, prune_ms=prune, clock=clock)
    _, screen, _ = measured(model.url, proxy.url, cases[:5], rounds=2, warmup=0)
    assert "remembers what it has read" in screen


def test_without_usage_and_headers(stub, measured, cases):
    model = stub(usage=False)
    proxy = stub(usage=False, keep=0.5, prune_ms=lambda n: 0.0, headers=False)
    report, screen, _ = measured(model.url, proxy.url, cases[:5])
    assert report["direct"]["total_input_tokens"] is None and report["direct"]["median_tpot_ms"] is None
    assert report["break_even_tokens"] is None and report["efficiency"] is None
    assert (
        report["ttft_ratio"] > 0
        and "reports no usage" in screen
        and "Give --proxy the URL of a tokenprune proxy" in screen
    )


def test_options_go_to_the_proxy_only(stub, measured, make_case):
    model, proxy = stub(), stub(keep=0.5, prune_ms=lambda n: 0.0)
    measured(model.url, proxy.url, [make_case("c", 50, options={"keep_ratio": 0.5})], max_tokens=7)
    assert all(r["tokenprune"] == {"keep_ratio": 0.5} for r in proxy.requests)
    assert all("tokenprune" not in r for r in model.requests)
    assert {r["max_tokens"] for r in model.requests + proxy.requests} == {7}


def test_one_url_asks_not_to_prune(stub, measured, cases):
    server = stub(keep=0.5, prune_ms=lambda n: 0.0)
    report, screen, _ = measured(server.url, f"{server.url}/v1", cases[:2], warmup=0)
    assert report["no_verdict"] is None
    assert "one URL for both routes" in screen
    asked = [r.get("tokenprune") for r in server.requests]
    assert sorted(map(str, asked)) == ["None", "None", "{'enabled': False}", "{'enabled': False}"]
    assert report["pairs"] == 2


def no_verdict(report, screen, html, first):
    assert report["no_verdict"].startswith(first)
    assert report["break_even_tokens"] is None and report["efficiency"] is None
    assert screen.startswith(first) and screen.count(first) == 1
    assert f"</h1><p><strong>{first}" in html
    for text in (screen, html.partition("Beside what others publish")[0]):
        for word in (
            "FASTER",
            "SLOWER",
            "Break-even",
            "does not pay",
            "Efficiency",
            "times longer",
            "regret",
        ):
            assert word not in text, word


def test_a_direct_route_that_prunes_gives_no_verdict(stub, measured, make_case, clock):
    cases = [make_case(f"c{n}", n, evidence=("Where",)) for n in LENGTHS]
    behind = stub(**PROXY, clock=clock)
    found = measured(behind.url, stub(**PROXY, clock=clock).url, cases)
    no_verdict(*found, "THE DIRECT ROUTE PRUNES TOO: 10 of 10 direct answers")
    assert "the URL of the server behind the proxy" in found[0]["no_verdict"]
    assert found[0]["quality"]["direct"]["evidence_recall"] is None
    assert all(one["ours"] is None for one in found[0]["published"])


def test_no_verdict_where_nothing_was_pruned(stub, measured, cases, clock):
    model = stub(**MODEL, clock=clock)
    found = measured(model.url, model.url, cases)
    no_verdict(*found, "NOTHING WAS PRUNED, as far as can be seen: no answer over --proxy has the header")
    assert "one URL for both routes" not in found[1] + found[2]
    found = measured(model.url, stub(**PROXY, least=9999, clock=clock).url, cases)
    no_verdict(*found, "NOTHING WAS PRUNED: the proxy decided 10 skipped:below-min-tokens.")
    assert "made the first token come +0.0 ms later" in found[1]


def test_warm_up_is_not_what_is_measured(stub, measured, cases, make_case):
    model, proxy = stub(), stub(keep=0.5, prune_ms=lambda n: 0.0)
    report, _, _ = measured(model.url, proxy.url, cases, limit=5, warmup=3)
    sent = [r["messages"][0]["content"].partition("\n\n")[2] for r in model.requests]
    measured_texts = [case.messages[0]["content"] for case in cases[:5]]
    assert sent[3:] == measured_texts and not set(sent[:3]) & set(measured_texts)
    assert [text.split()[-1] for text in sent[:3]] == ["c200", "c330", "c560"]
    assert report["direct"]["completed"] == 5 and report["notes"] == []


def test_what_cannot_be_measured(stub, measured, cases, make_case, tmp_path):
    model = stub(faults={"word": "busy"})
    with pytest.raises(MeasureError, match=r"every warm-up request to .* failed: HTTP 503: come again"):
        measured(model.url, model.url, cases)
    with pytest.raises(MeasureError, match="not one request was answered"):
        measured(model.url, stub().url, cases[:2], warmup=0)
    assert json.loads((tmp_path / "out" / "report.json").read_text())["direct"]["failed"] == 2
    with pytest.raises(ConfigError, match="has no case"):
        measured(model.url, model.url, [])
    with pytest.raises(MeasureError, match="lists no models"):
        measured(stub(names=()).url, model.url, cases)
    with pytest.raises(
        MeasureError, match=r"cannot reach http://127\.0\.0\.1:1/v1/models: Connection refused; is"
    ):
        measured(model.url, "http://127.0.0.1:1", cases)
    with pytest.raises(MeasureError, match="not a URL"):
        measured("localhost:8000", model.url, cases)
