"""Percentiles, intervals, figures of a side and decisions against values worked out by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest

from tokenprune.bench.compare import compared, efficiency
from tokenprune.bench.decisions import counts, regret
from tokenprune.bench.rows import Pair, Row
from tokenprune.bench.sides import read_goodput, summary
from tokenprune.bench.statistics import bootstrap, interval, spread
from tokenprune.errors import MeasureError


def row(side="direct", case="c", ttft=10.0, e2el=None, number=0, **fields):
    fields = {"tokens_in": 100, "tokens_out": 5} | fields
    end = ttft + 40 if e2el is None else e2el
    return Row(case, None, side, number, ttft_ms=ttft, e2el_ms=end, **fields)


def pair(case, direct, pruned, number=0, **fields):
    return Pair(
        row("direct", case, direct, number=number), row("pruned", case, pruned, number=number, **fields)
    )


def test_spread_by_hand():
    found = spread([1.0, 2.0, 3.0, 4.0], "ttft_ms")
    assert found == {
        "mean_ttft_ms": 2.5, "std_ttft_ms": pytest.approx(math.sqrt(1.25)), "median_ttft_ms": 2.5,
        "p50_ttft_ms": 2.5, "p90_ttft_ms": pytest.approx(3.7), "p99_ttft_ms": pytest.approx(3.97),
    }  # fmt: skip
    assert set(spread([], "ttft_ms").values()) == {None}


def test_bootstrap_of_two_values_by_hand():
    # Two draws of 0 or 1: the mean is 0, 1/2 or 1 with 1/4, 1/2, 1/4, so the interval is all of it.
    assert interval([0.0, 1.0]) == (0.0, 1.0)
    assert interval([3.0, 3.0, 3.0]) == (3.0, 3.0)
    assert all(math.isnan(bound) for bound in interval([]))


def test_bootstrap_of_the_mean_is_that_of_theory():
    values = np.random.default_rng(3).normal(0, 1, 400)
    low, high = interval(values, rounds=4000)
    half = 1.96 * values.std() / math.sqrt(400)
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.012)


def test_rows_are_drawn_whole():
    data = np.arange(20.0).reshape(10, 2)
    seen = []
    bootstrap(data, lambda drawn: seen.append(drawn) or drawn[:, 0, 0], rounds=50)
    drawn = np.concatenate(seen)
    assert drawn.shape == (50, 10, 2) and (drawn[..., 1] - drawn[..., 0] == 1).all()


def test_ratio_and_difference_by_hand():
    pairs = [pair("a", 100, 40), pair("b", 200, 50), pair("c", 400, 60), pair("a", 120, 44, number=1)]
    found = compared(pairs, seed=0)
    assert found["ttft_ratio"] == pytest.approx(160 / 47)  # medians of 100 120 200 400 and 40 44 50 60
    assert found["ttft_difference_ms"] == pytest.approx(-113)  # of -60 -76 -150 -340
    assert found["e2el_ratio"] == pytest.approx(200 / 87)
    assert found["ttft_ratio_ci"] is None  # three cases
    found = compared([*pairs, pair("d", 300, 55), pair("e", 150, 45)], seed=0)
    low, high = found["ttft_ratio_ci"]
    # the extremes are resamples of one case only
    assert 110 / 42 <= low < found["ttft_ratio"] < high <= 400 / 60
    one = compared([pair("a", 100, 40)], seed=0)
    assert one["ttft_ratio"] == 2.5 and one["ttft_ratio_ci"] is None
    assert compared([], seed=0)["ttft_ratio"] is None


def test_interval_covers_no_difference():
    rng = np.random.default_rng(0)
    pairs = [pair(f"c{i}", *rng.normal(100, 20, 2)) for i in range(40)]
    low, high = compared(pairs, seed=0)["ttft_ratio_ci"]
    assert low < 1 < high


def test_efficiency_by_hand():
    pairs = [pair("a", 100, 50, prune_ms=10.0), pair("b", 100, 50, prune_ms=20.0)]
    assert efficiency(pairs) == pytest.approx(35 / 50)  # 100/50 over 100/35
    assert efficiency([*pairs, pair("c", 100, 50)]) is None
    assert efficiency([]) is None


def test_side_by_hand():
    rows = [
        row(ttft=10, e2el=50, tpot_ms=10.0, itl_ms=[10.0] * 4, cached_tokens=64),
        row(ttft=30, e2el=31, tokens_out=1),
        row(ttft=20, e2el=100, tpot_ms=20.0, itl_ms=[20.0] * 4),
        Row("c", None, "direct", 0, error="x", error_kind="http"),
    ]
    found = summary(rows, 2.0, {"ttft": 25.0, "tpot": 15.0})
    assert (found["completed"], found["failed"]) == (3, 1)
    assert (found["total_input_tokens"], found["total_output_tokens"]) == (300, 11)
    assert found["total_cached_tokens"] == 64
    assert (found["request_throughput"], found["output_throughput"]) == (1.5, 5.5)
    assert found["total_token_throughput"] == 155.5
    assert found["median_ttft_ms"] == 20 and found["mean_itl_ms"] == 15 and found["median_tpot_ms"] == 15
    assert found["request_goodput"] == 0.5  # the second is too late, the third too slow
    assert (
        summary(rows, 2.0, {"tpot": 15.0})["request_goodput"] == 1.0
    )  # one token has no TPOT: 0, as in vLLM
    assert summary(rows, 2.0, {})["request_goodput"] is None
    unknown = summary([row(tokens_out=None)], 2.0, {"tpot": 1.0})
    assert unknown["request_goodput"] is None and unknown["total_output_tokens"] is None
    nothing = summary(rows[3:], 0.0, {"ttft": 1.0})
    assert nothing["median_ttft_ms"] is None and nothing["request_throughput"] is None


def test_goodput_as_vllm_writes_it():
    assert read_goodput(["ttft:500 tpot:50", "e2el:1e3"]) == {"ttft": 500, "tpot": 50, "e2el": 1000}
    for wrong in ("ttft", "ttft:x", "itl:5", "ttft:-1", "ttft:nan"):
        with pytest.raises(MeasureError, match="--goodput"):
            read_goodput([wrong])


def test_decisions_and_regret_by_hand():
    pairs = [
        pair("a", 100, 40, decision="pruned"),
        pair("b", 50, 70, decision="pruned"),
        pair("c", 20, 22, decision="skipped:fits-budget"),
        pair("d", 20, 26, decision="failed:timeout"),
    ]
    assert counts([p.pruned for p in pairs])["pruned"] == 2
    assert counts([p.direct for p in pairs]) == {"without x-tokenprune-decision": 4}
    assert regret(pairs) == {
        "pairs": 4, "pruned": 2, "pruned_slower": 1, "regret_pruned_ms": 10.0, "skipped": 2,
        "overhead_skipped_ms": 4.0, "against_never_ms": pytest.approx((-60 + 20 + 2 + 6) / 4),
        "against_always_ms": None, "regret_ms": None,
    }  # fmt: skip
    always = regret(pairs[:2])
    assert always["against_always_ms"] == 0 and always["overhead_skipped_ms"] is None
    assert always["regret_ms"] == (0 + 20) / 2
    assert regret([]) is None
    # With the third route all is known: c was rightly left, d would have been faster pruned.
    tried = [replace(p, always=row("always", "x", t)) for p, t in zip(pairs, (45, 65, 30, 10), strict=True)]
    known = regret(tried)
    assert known["against_always_ms"] == pytest.approx((-5 + 5 - 8 + 16) / 4)
    assert known["regret_ms"] == pytest.approx((-5 + 20 + 2 + 16) / 4)
    assert regret([*tried[:3], pairs[3]])["regret_ms"] is None
