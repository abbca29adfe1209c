"""Selectors against plain definitions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenprune.errors import BudgetError, ConfigError
from tokenprune.select.choice import choose
from tokenprune.select.simple import Everything, KeepRatio, ShareOfBest, Threshold, TopK, ranking

units = st.lists(
    st.tuples(st.sampled_from([-1.0, 0.0, 0.25, 0.5, 0.5, 1.0, 3.0]), st.integers(0, 9)), max_size=12
)


def columns(rows):
    return np.array([s for s, _ in rows], dtype=float), np.array([c for _, c in rows], dtype=np.int64)


def test_ranking_is_best_first_and_stable():
    assert ranking(np.array([0.1, 0.5, 0.1, 0.9, 0.5])).tolist() == [3, 1, 4, 0, 2]
    assert ranking(np.empty(0)).tolist() == []


@given(units)
def test_everything(rows):
    assert Everything().select(*columns(rows)).tolist() == [True] * len(rows)


@given(units, st.sampled_from([-1.0, 0.25, 0.5, 9.0]))
def test_threshold(rows, threshold):
    assert Threshold(threshold).select(*columns(rows)).tolist() == [s >= threshold for s, _ in rows]


@given(units, st.sampled_from([0.0, 0.3, 0.5, 1.0]))
def test_share_of_best(rows, share):
    best = max((s for s, _ in rows), default=0.0)
    expected = [best > 0 and s >= share * best for s, _ in rows]
    assert ShareOfBest(share).select(*columns(rows)).tolist() == expected


def test_share_of_best_has_a_floor():
    scores, cost = np.array([0.2, 0.1]), np.array([1, 1])
    assert ShareOfBest(0.5, floor=0.2).select(scores, cost).tolist() == [False, False]
    assert ShareOfBest(0.5, floor=0.1).select(scores, cost).tolist() == [True, True]


@given(units, st.integers(0, 14))
def test_top_k(rows, k):
    order = sorted(range(len(rows)), key=lambda n: (-rows[n][0], n))
    assert TopK(k).select(*columns(rows)).tolist() == [n in order[:k] for n in range(len(rows))]


@given(units, st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.99, 1.0]))
def test_keep_ratio(rows, ratio):
    """Never over the share of the tokens; what was left out while better than a kept unit did not fit."""
    scores, cost = columns(rows)
    keep = KeepRatio(ratio).select(scores, cost)
    assert cost[keep].sum() <= ratio * cost.sum() + 1e-6
    left = int(ratio * cost.sum() + 1e-9)
    for n in ranking(scores).tolist():
        assert keep[n] == (cost[n] <= left)
        left -= int(cost[n]) * bool(keep[n])
    if ratio == 1.0:
        assert keep.all()


@pytest.mark.parametrize(
    "make", [lambda: KeepRatio(-0.1), lambda: KeepRatio(1.1), lambda: ShareOfBest(2), lambda: TopK(-1)]
)
def test_out_of_range(make):
    with pytest.raises(BudgetError, match=r"not (-0.1|1.1|2|-1)"):
        make()


def test_choose():
    default = Everything()
    assert choose(default) is default
    assert choose(default, threshold=0) == Threshold(0.0)
    assert choose(default, keep_ratio=0) == KeepRatio(0.0)
    assert choose(default, top_k=0) == TopK(0)
    with pytest.raises(ConfigError, match="only one of threshold, keep_ratio and top_k"):
        choose(default, threshold=0.1, top_k=3)
