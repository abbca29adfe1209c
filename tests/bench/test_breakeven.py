"""Fits and their crossing against curves that are known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenprune.bench.breakeven import break_even, crossing, fit

N = np.array([100.0, 200, 400, 800, 1600, 3200])


def quadratic(a, b, c, n=N):
    return a + b * n + c * n * n


@given(st.floats(0, 100), st.floats(0, 1), st.floats(0, 1e-3))
def test_exact_curves_are_recovered(a, b, c):
    ms = quadratic(a, b, c) + 0.001
    assert fit(N, ms)(N) == pytest.approx(ms, rel=1e-5)


@given(st.lists(st.floats(1, 1e4), min_size=6, max_size=6))
def test_no_term_is_negative_and_none_alone_fits_better(ms):
    ms = np.array(ms)
    curve = fit(N, ms)
    assert (curve.coefficients >= 0).all()
    assert curve.error == pytest.approx(np.sqrt(np.mean((curve(N) / ms - 1) ** 2)), abs=1e-6)
    for column in (np.ones(6), N, N * N):
        best = (column / ms).sum() / ((column / ms) ** 2).sum()  # least squares of one term, by hand
        assert curve.error <= np.sqrt(np.mean((best * column / ms - 1) ** 2)) + 1e-9


@pytest.mark.parametrize("pruned", [(50, 0.02, 0), (80, 0.001, 1e-6), (12, 0.05, 0)])
def test_where_two_curves_cross(pruned):
    direct = (10, 0.1, 1e-5)
    found = crossing(fit(N, quadratic(*direct)), fit(N, quadratic(*pruned)), 3200)
    a, b, c = np.subtract(direct, pruned)
    assert found == pytest.approx((-b + np.sqrt(b * b - 4 * a * c)) / (2 * c), rel=1e-3)


def test_measured():
    found = break_even(N, quadratic(10, 0.1, 1e-5), quadratic(40, 0.02, 0), np.ones(6))
    assert found["status"] == "measured" and "pays from about 359 tokens" in found["text"]
    assert found["tokens"] == pytest.approx(358.9, abs=0.1)
    assert found["ci"] == pytest.approx([358.9, 358.9], abs=1)
    assert found["direct"]["coefficients"] == pytest.approx([10, 0.1, 1e-5], rel=1e-3, abs=1e-6)


def test_noise_widens_the_interval():
    rng = np.random.default_rng(1)
    n = np.linspace(100, 3000, 40)
    noisy = [quadratic(*abc, n) * rng.normal(1, 0.1, 40) for abc in ((10, 0.1, 1e-5), (40, 0.02, 0))]
    found = break_even(n, *noisy, np.ones(40))
    low, high = found["ci"]
    assert low < 358.9 < high and high - low > 20


def test_below_what_was_measured():
    found = break_even(N, quadratic(10, 0.1, 0), quadratic(13, 0.02, 0), np.ones(6))
    assert found["status"] == "below-measured" and found["tokens"] == pytest.approx(37.5, abs=0.5)
    assert "from 100 tokens on" in found["text"] and "unmeasured" in found["text"]
    always = break_even(N, quadratic(10, 0.1, 0), quadratic(5, 0.02, 0), np.ones(6))
    assert always["tokens"] == 0 and "do not cross" in always["text"]


def test_above_what_was_measured_and_never():
    above = break_even(N, quadratic(10, 0.1, 0), quadratic(400, 0.02, 0), np.ones(6))
    assert (above["status"], above["tokens"], above["ci"]) == ("above-measured", None, None)
    assert "up to 3200 tokens" in above["text"] and "4875" in above["text"]
    never = break_even(N, quadratic(10, 0.1, 0), quadratic(20, 0.1, 0), np.ones(6))
    assert never["status"] == "never" and never["tokens"] is None


def test_only_what_was_pruned_counts():
    times = quadratic(40, 0.02, 0)
    times[:2] = quadratic(10, 0.1, 1e-5)[:2] + 1  # skipped: the proxy's way only
    found = break_even(N, quadratic(10, 0.1, 1e-5), times, np.array([0, 0, 1, 1, 1, 1]))
    assert found["measured"] == [400, 3200]
    assert found["status"] == "below-measured" and found["tokens"] == pytest.approx(358.9, abs=1)


@pytest.mark.parametrize("lengths", [[], [100, 200, 300], [100, 101, 102, 103], [100, 100, 100, 400]])
def test_too_little_to_tell(lengths):
    n = np.array(lengths, dtype=float)
    found = break_even(n, 1 + n, 2 + n, np.ones(len(n)))
    assert found["status"] == "unknown" and found["tokens"] is None and "not known" in found["text"]
