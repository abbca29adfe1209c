"""What is learned of the upstream and of our own methods."""

import json
import threading

import pytest

from tokenprune_server.cost_model import Answer, CostModel, Usage
from tokenprune_server.curve import Curve

TRUE = Curve(0.01, 2e-4)


@pytest.fixture
def costs():
    return CostModel(1000.0, 20_000.0, 0.5)


def answer(prompt, cached=0.0, seconds=None, usage=None, **more):
    return Answer("m", prompt, cached, TRUE.seconds(prompt) if seconds is None else seconds, usage, **more)


def taught(costs):
    for n in (50, 200, 1000, 2000, 3000) * 4:
        costs.answered(answer(n))
        costs.prefill("m")
    return costs


def test_priors_come_from_the_settings(costs):
    assert costs.prefill("m").seconds(1000) == 1.0
    assert costs.pruning_s("x", 20_000) == pytest.approx(1.0, abs=0.01)
    assert (costs.keep_ratio("x"), costs.trust("m")) == (0.5, 0.8)


def test_prefill_is_learned_per_model(costs):
    taught(costs)
    assert costs.prefill("m").seconds(1500) == pytest.approx(TRUE.seconds(1500), rel=0.03)
    assert costs.prefill("other").seconds(1000) == 1.0


def test_cached_tokens_cost_nothing(costs):
    for n in (200, 1000, 2000, 3000) * 4:
        costs.answered(answer(n, seconds=TRUE.seconds(n / 2), usage=Usage(n, n // 2)))
    assert costs.prefill("m").seconds(1500) == pytest.approx(TRUE.seconds(1500), rel=0.03)


def test_tokens_are_those_we_count(costs):
    """The upstream counts twice as many tokens: a token of ours costs twice as much."""
    for n in (200, 1000, 2000, 3000) * 20:
        costs.answered(answer(n, seconds=TRUE.seconds(2 * n), usage=Usage(2 * n)))
    assert costs.prefill("m").seconds(1500) == pytest.approx(TRUE.seconds(3000), rel=0.05)


def test_answers_in_one_piece_need_their_length(costs):
    for n in (200, 1000, 2000, 3000) * 8:
        out = n % 70
        seconds = TRUE.seconds(n) + 0.03 * (out - 1)
        costs.answered(answer(n, seconds=seconds, usage=Usage(n, None, out), whole=True))
        costs.answered(answer(n, seconds=99.0, whole=True))
    assert costs.prefill("m").seconds(1500) == pytest.approx(TRUE.seconds(1500), rel=0.1)


def test_a_busy_upstream_is_not_learned_from(costs):
    taught(costs)
    before = costs.prefill("m")
    for _ in range(50):
        costs.answered(answer(1000, seconds=30.0, others=9))
    assert costs.prefill("m") == before


class TestTrust:
    def test_reported_hits(self, costs):
        for _ in range(8):
            costs.answered(answer(1000, 800, 0.05, Usage(1000, 800)))
        assert costs.trust("m") > 0.95

    def test_reported_zeros_and_what_is_left_out_after_a_report(self, costs):
        costs.answered(answer(1000, 800, 0.05, Usage(1000, 800)))
        for _ in range(6):
            costs.answered(answer(1000, 800, usage=Usage(1000)))
        assert costs.trust("m") < 0.2

    def test_one_hit_shows_that_there_is_a_cache(self, costs):
        costs.answered(answer(1000, 800, usage=Usage(1000)))
        assert not costs.keeps_prefixes("m")
        costs.answered(answer(1000, 800, 0.05, Usage(1000, 800)))
        assert (costs.trust("m"), costs.keeps_prefixes("m"), costs.keeps_prefixes("other")) == (
            1.0,
            True,
            False,
        )

    def test_partial_hits(self, costs):
        for _ in range(20):
            costs.answered(answer(1000, 800, 0.05, Usage(1000, 400)))
        assert costs.trust("m") == pytest.approx(0.5, abs=0.01)

    @pytest.mark.parametrize(("hit", "low", "high"), [(True, 0.9, 1.0), (False, 0.0, 0.1)])
    def test_silence_is_judged_by_time(self, costs, hit, low, high):
        taught(costs)
        for _ in range(8):
            costs.answered(answer(2000, 1900, TRUE.seconds(100 if hit else 2000)))
        assert low <= costs.trust("m") <= high
        assert costs.prefill("m").seconds(1500) == pytest.approx(TRUE.seconds(1500), rel=0.05)

    def test_no_prediction_says_nothing(self, costs):
        for _ in range(9):
            costs.answered(answer(1000, 16, usage=Usage(1000, 0)))
        assert costs.trust("m") == 0.8

    def test_unpredicted_hits_raise_it(self, costs):
        for _ in range(9):
            costs.answered(answer(1000, 0, usage=Usage(1000, 500)))
        assert costs.trust("m") > 0.9


def test_pruning_is_learned_per_method(costs):
    for n in (300, 1000, 4000) * 3:
        costs.pruned("slow", n, 0.1 + n / 1000, n // 5)
        costs.pruned("asked", n, 0.01, None)
    assert costs.pruning_s("slow", 2000) == pytest.approx(2.1, rel=0.1)
    assert costs.keep_ratio("slow") == pytest.approx(0.2 + 0.3 * 0.9**9)
    assert costs.keep_ratio("asked") == 0.5


def test_a_slow_start_does_not_end_pruning():
    now = [0.0]
    costs = CostModel(1000.0, 20_000.0, 0.5, lambda: now[0])
    for _ in range(4):
        costs.pruned("x", 400, 9.0, 100)
    assert costs.pruning_s("x", 400) == pytest.approx(0.025)
    costs.pruned("x", 400, 9.0, 100)
    assert costs.pruning_s("x", 400) > 4
    now[0] += 301  # nobody has pruned since
    assert costs.pruning_s("x", 400) == pytest.approx(0.025)


def test_what_was_slow_on_a_busy_machine_is_tried_again():
    now = [0.0]
    costs = CostModel(1000.0, 20_000.0, 0.5, lambda: now[0])
    for _ in range(5):
        costs.pruned("x", 400, 9.0, 100)
    probes = 0
    for _ in range(200):  # a request a second
        now[0] += 1
        if costs.pruning_s("x", 400) < 1:
            costs.pruned("x", 400, 9.0 if now[0] < 60 else 0.05, 100)
            probes += now[0] < 60
    assert 1 <= probes <= 3, "slow as it is, it is not asked of every request"
    assert costs.pruning_s("x", 400) < 1, "fast again, it is in use again"


def test_memory_is_bounded_and_threads_are_safe(costs):
    def teach(start):
        for n in range(200):
            costs.answered(Answer(f"model {start + n}", 100, 0, 0.1))
            costs.pruned(f"method {start + n}", 100, 0.1, 50)
            costs.prefill(f"model {start}")

    threads = [threading.Thread(target=teach, args=(1000 * k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    shown = json.loads(json.dumps(costs.to_dict()))
    assert len(shown["models"]) == len(shown["methods"]) == 64
    assert shown["prior"]["keep_ratio"] == 0.5
