"""Parts of a request, by hand."""

import pytest

from tokenprune.bench.breakdown import PARTS, breakdown, parts_of
from tokenprune.bench.rows import Row

STEPS = {"count": 1.0, "segment": 2.0, "score": 10.0, "select": 0.5, "render": 0.5}


def row(ttft=100.0, prune=20.0, upstream=70.0, steps=STEPS, **fields):
    return Row(
        "c", None, "pruned", 0, ttft_ms=ttft, prune_ms=prune, steps_ms=steps, upstream_ms=upstream, **fields
    )


def test_parts_add_up():
    parts = parts_of(row())
    assert parts == {"parse": 6, **STEPS, "proxy": 10, "upstream": 70}
    assert list(parts) == list(PARTS)
    assert parts_of(row(upstream=None)) == {**parts, "proxy": 0, "upstream": 80}
    assert parts_of(row(upstream=90.0))["proxy"] == 0  # clocks of two processes


@pytest.mark.parametrize(
    "fields", [{"steps": {}}, {"prune": None}, {"ttft": None}, {"error": "cut", "error_kind": "cut"}]
)
def test_unknown(fields):
    assert parts_of(row(**fields)) is None
    assert breakdown([row(**fields)]) is None


def test_a_median_request_is_shown():
    rows = [row(ttft, upstream=ttft - 30) for ttft in (400.0, 100.0, 200.0, 50.0)]
    found = breakdown([*rows, row(steps={})])
    assert (found["requests"], found["ttft_ms"]) == (4, 100)
    assert found["shown"]["upstream"] == 70 and found["median"]["upstream"] == 120
    assert sum(found["shown"].values()) == 100
