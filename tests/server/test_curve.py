"""The robust fit of seconds over tokens."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenprune_server.curve import Curve, CurveFit

PRIOR = Curve(per_token_s=1e-3, per_output_s=0.02)
SIZES = (50, 400, 1500, 6000)


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def near(curve, true, tolerance, sizes=SIZES):
    for n in sizes:
        assert curve.seconds(n) == pytest.approx(true.seconds(n), rel=tolerance)


@pytest.mark.parametrize(
    "true",
    [
        Curve(0.02, 1e-3),
        Curve(0.02, 1.5e-3, 2e-7),  # a small machine
        Curve(0.1, 5e-5, 1e-9),  # a fast one far away
        Curve(5.0, 0.1),
    ],
)
class TestRecovers:
    def test_from_noise_and_queueing(self, true):
        rng = np.random.default_rng(1)
        fit = CurveFit(PRIOR, quantile=0.3)
        for n in rng.integers(30, 6000, 300):
            seconds = true.seconds(n) * rng.normal(1, 0.05)
            waiting = rng.exponential(3 * seconds) if rng.random() < 0.2 else 0.0
            fit.observe(n, seconds + waiting)
        near(fit.curve(), true, 0.07)

    def test_the_prior_is_weak(self, true):
        fit = CurveFit(PRIOR)
        for n in (60, 500, 1000, 2000, 4000):
            fit.observe(n, true.seconds(n))
        near(fit.curve(), true, 0.15, (100, 1000, 4000))


def test_outputs_are_told_apart():
    fit = CurveFit(PRIOR)
    rng = np.random.default_rng(2)
    for n in rng.integers(30, 4000, 200):
        outputs = int(rng.integers(0, 60))
        fit.observe(n, 0.01 + 2e-4 * n + 0.05 * outputs, outputs)
    curve = fit.curve()
    assert curve.per_output_s == pytest.approx(0.05, rel=0.02)
    assert curve.per_token_s == pytest.approx(2e-4, rel=0.05)


def test_nothing_seen_is_the_prior():
    assert CurveFit(PRIOR).curve() == PRIOR


def test_a_single_outlier_does_not_stay():
    fit = CurveFit(PRIOR)
    fit.observe(1000, 500.0)
    for n in (100, 500, 1000, 2000, 3000, 4000):
        fit.observe(n, 1e-4 * n)
    near(fit.curve(), Curve(0, 1e-4), 0.05)


def test_few_long_prompts_are_not_displaced():
    fit = CurveFit(PRIOR)
    fit.observe(5000, 10.0)
    for _ in range(5000):
        fit.observe(100, 0.1)
    assert fit.curve().seconds(5000) == pytest.approx(10.0, rel=0.1)


def test_memory_is_bounded():
    fit = CurveFit(PRIOR)
    for n in range(20_000):
        fit.observe(n * 7 % 100_000, 1.0)
    assert len(fit) <= 32 * 18


def test_old_observations_are_forgotten():
    clock = Clock()
    fit = CurveFit(PRIOR, max_age_s=60, clock=clock)
    for n in (100, 300, 1000, 1500, 2000, 3000):
        fit.observe(n, 1e-2 * n)
    assert fit.curve().seconds(1000) == pytest.approx(10, rel=0.1)
    clock.now += 61
    assert fit.curve() == PRIOR
    fit.observe(1000, 0.5)
    assert fit.curve().seconds(1000) == pytest.approx(0.5, rel=0.3)
    assert fit.latest == fit.curve()


@pytest.mark.parametrize("seconds", [0.0, -1.0, math.nan, math.inf])
def test_what_cannot_be_is_not_observed(seconds):
    fit = CurveFit(PRIOR)
    fit.observe(100, seconds)
    assert len(fit) == 0


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 1e6), st.floats(1e-6, 1e4), st.floats(0, 1e4)), min_size=1, max_size=40)
)
def test_any_observations_give_a_sensible_curve(rows):
    fit = CurveFit(PRIOR, quantile=0.3)
    for n, seconds, outputs in rows:
        fit.observe(n, seconds, outputs)
    values = fit.curve().to_dict().values()
    assert all(math.isfinite(value) and value >= 0 for value in values)
    assert fit.curve().seconds(-5) == fit.curve().seconds(0)
