"""Budgets: what they mean, and one scale for several scorers."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenprune.budget import Budget, comparable
from tokenprune.errors import BudgetError, TokenPruneError


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_tokens": 1, "keep_ratio": 0.5}, "max_tokens or keep_ratio, not both"),
        ({"max_tokens": 0, "keep_ratio": 0}, "not both"),
        ({"max_tokens": -1}, "0 or more, not -1"),
        ({"max_tokens": True}, "max_tokens must be"),
        ({"keep_ratio": -0.01}, "between 0 and 1, not -0.01"),
        ({"keep_ratio": 1.01}, "between 0 and 1"),
        ({"keep_ratio": math.nan}, "between 0 and 1"),
        ({"keep_ratio": math.inf}, "between 0 and 1"),
    ],
)
def test_errors(fields, message):
    with pytest.raises(BudgetError, match=message) as caught:
        Budget(**fields)
    assert isinstance(caught.value, TokenPruneError)


@pytest.mark.parametrize(
    ("budget", "before", "limit"),
    [
        (Budget(), 100, None),
        (Budget(0), 100, 0),
        (Budget(max_tokens=7), 100, 7),
        (Budget(max_tokens=700), 100, 700),
        (Budget(keep_ratio=0), 100, 0),
        (Budget(keep_ratio=1), 100, 100),
        (Budget(keep_ratio=0.25), 101, 25),
        (Budget(keep_ratio=0.29), 100, 29),  # 0.29 * 100 is 28.999... in floating point
        (Budget(keep_ratio=0.5), 0, 0),
    ],
)
def test_limit(budget, before, limit):
    assert budget.limit(before) == limit
    assert budget.adaptive == (limit is None)


@given(st.floats(0, 1), st.integers(0, 10**7))
def test_ratio_is_never_exceeded(ratio, before):
    limit = Budget(keep_ratio=ratio).limit(before)
    assert 0 <= limit <= before
    assert limit <= ratio * before + 1e-6
    assert limit > ratio * before - 1


groups = st.lists(
    st.tuples(st.sampled_from([-3.0, -1.0, 0.0, 0.1, 0.5, 2.0, 9.0]), st.integers(0, 9)), max_size=9
)


def columns(rows):
    return np.array([s for s, _ in rows], dtype=float), np.array([c for _, c in rows], dtype=np.int64)


def test_one_group_stays():
    scores = np.array([3.0, -1.0])
    assert comparable([scores], [np.array([1, 1])])[0].tolist() == [3.0, -1.0]
    assert comparable([], []) == []


@given(st.lists(groups, min_size=2, max_size=4))
def test_comparable(parts):
    """Within 0..1; order and ties stay; a score is the share of the group's tokens that rank below."""
    scores, costs = zip(*map(columns, parts), strict=True)
    out = comparable(scores, costs)
    assert [len(o) for o in out] == [len(s) for s in scores]
    for score, cost, got in zip(scores, costs, out, strict=True):
        total = max(1, int(cost.sum()))
        want = [float(cost[score < s].sum()) / total for s in score]
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-12)


def test_groups_keep_equal_shares():
    """Whatever their scales, at any cut the groups keep about the same share (within a unit of ten)."""
    rng = np.random.default_rng(0)
    cosines, sums = rng.random(100), 40 * rng.random(100)
    cost = np.full(100, 10)
    one, two = comparable([cosines, sums], [cost, cost])
    for cut in (0.25, 0.5, 0.9):
        assert abs((one >= cut).mean() - (two >= cut).mean()) <= 0.01
        assert abs((one >= cut).mean() - (1 - cut)) <= 0.011
