"""What lies inside what: against a stack."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tokenprune.segment.html_tree import last_of, moved_down, nearest, tree


def close_all(steps):
    """Leave out ends without a start, and end all that is open."""
    kept, depth = [], 0
    for step in steps:
        if step >= 0 or depth:
            kept.append(step)
            depth += step
    return kept + [-1] * depth


@given(st.lists(st.sampled_from((1, -1, 0)), max_size=60).map(close_all))
def test_tree(steps):
    found = tree(np.asarray(steps, dtype=np.int64))
    stack, opens, close, inside, parent = [], [], {}, [], []
    for place, step in enumerate(steps):
        if step > 0:
            parent.append(stack[-1] if stack else -1)
            stack.append(len(opens))
            opens.append(place)
        elif step < 0:
            close[stack.pop()] = place
        inside.append(stack[-1] if stack else -1)
    assert found.opens.tolist() == opens
    assert found.close.tolist() == [close[k] for k in range(len(opens))]
    assert found.inside.tolist() == inside
    assert found.parent.tolist() == parent


@given(st.lists(st.booleans(), max_size=30))
def test_last_of(mask):
    expected = [max((i for i in range(k + 1) if mask[i]), default=-1) for k in range(len(mask))]
    found = last_of(np.asarray(mask, dtype=bool))
    assert found.tolist() == expected
    assert moved_down(found, 7).tolist() == [7, *expected][: len(mask)]


@given(st.data())
def test_nearest(data):
    n = data.draw(st.integers(0, 30))
    parent = [data.draw(st.integers(-1, k - 1)) for k in range(n)]
    chosen = data.draw(st.lists(st.booleans(), min_size=n, max_size=n))
    found = nearest(np.asarray(parent, dtype=np.int64), np.asarray(chosen, dtype=bool)).tolist()
    for k in [*range(n), -1]:
        at = k
        while at >= 0 and not chosen[at]:
            at = parent[at]
        assert found[k] == at
