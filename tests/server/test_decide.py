"""The decision table."""

import dataclasses

import pytest

from tokenprune_server.decide import PRUNED, Facts, failed, skip_reason, skipped

# A request that is pruned; each row of the table changes something.
GOOD = Facts(
    body_bytes=5000,
    max_body_bytes=10_000,
    min_body_bytes=600,
    waiting=3,
    max_waiting=4,
    documents=2,
    has_query=True,
    document_tokens=1000,
    min_tokens=200,
    budget_tokens=300,
    room_tokens=400,
)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, None),
        ({"enabled": False}, "disabled"),
        ({"authorized": False}, "unauthorized"),
        ({"authorized": False, "enabled": False}, "unauthorized"),
        ({"readable": False}, "encoding"),
        ({"body_bytes": 10_001}, "too-large"),
        ({"body_bytes": 10_000}, None),
        ({"body_bytes": 599}, "below-min-tokens"),
        ({"body_bytes": 600}, None),
        ({"documents": 0}, "no-documents"),
        ({"documents": 0, "short_documents": 1}, "below-min-tokens"),
        ({"has_query": False}, "no-query"),
        ({"documents": 0, "has_query": False}, "no-documents"),
        ({"document_tokens": 199}, "below-min-tokens"),
        ({"document_tokens": 300}, "fits-budget"),
        ({"document_tokens": 301}, None),
        ({"budget_tokens": 0}, None),
        ({"budget_tokens": None}, None),
        ({"room_tokens": 0}, "no-room"),
        ({"room_tokens": -5, "budget_tokens": 5000}, "no-room"),
        ({"room_tokens": None}, None),
        ({"waiting": 4}, "overloaded"),
        ({"waiting": 4, "document_tokens": 300}, "fits-budget"),
    ],
)
def test_table(change, reason):
    assert skip_reason(dataclasses.replace(GOOD, **change)) == reason


def test_what_is_not_known_decides_nothing():
    assert skip_reason(Facts()) is None


def test_headers():
    assert (PRUNED, skipped("x"), failed("y")) == ("pruned", "skipped:x", "failed:y")
