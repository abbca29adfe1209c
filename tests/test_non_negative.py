"""Least squares without negative unknowns."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenprune.non_negative import non_negative

finite = st.floats(-5, 5, allow_nan=False)


@settings(deadline=None)
@given(
    st.lists(st.tuples(finite, finite, finite, finite), min_size=6, max_size=12),
    st.none() | st.lists(st.sampled_from([0.0, 1.0]), min_size=3, max_size=3).map(np.array),
)
def test_no_step_in_any_allowed_direction_helps(rows, near):
    table = np.array(rows)
    columns, y = table[:, :3], table[:, 3]
    a = columns.T @ columns + 0.1 * np.eye(3)
    x = non_negative(a, columns.T @ y, near)
    assert (x >= 0).all()
    slope = a @ x - columns.T @ y
    assert (slope > -1e-5).all() and abs(slope @ x) < 1e-5


@pytest.mark.parametrize(
    ("y", "expected"),
    [([3.0, 5.0], [3.0, 5.0]), ([-1.0, 5.0], [0.0, 5.0]), ([-1.0, -2.0], [0.0, 0.0])],
)
def test_what_would_be_negative_is_zero(y, expected):
    assert non_negative(np.eye(2), np.array(y)) == pytest.approx(expected)
