"""The decision table."""

import dataclasses

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tokenprune_server.curve import Curve
from tokenprune_server.decide import PRUNED, Cost, Facts, decide, failed, skip_reason, skipped

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
# One that is worth it: 700 tokens fewer at a millisecond each, for 100 ms.
WORTH = Cost(Curve(0.05, 1e-3), prompt_tokens=1050, saved_tokens=700, prune_s=0.1)
CACHED = dataclasses.replace(WORTH, cached_tokens=1000, cached_tokens_lost=950)
REUSED = dataclasses.replace(WORTH, reuse=0.9, reuse_tokens=1000)
SLOW = dataclasses.replace(WORTH, prune_s=0.8)


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
        ({"documents": 0, "replayed": 2}, "cached"),
        ({"documents": 0, "replayed": 2, "few_shot": 1}, "cached"),
        ({"replayed": 2}, None),
        ({"shared": 2}, "shared"),
        ({"shared": 2, "cost": CACHED}, "cached"),
        ({"shared": 1}, None),
        ({"shared": 2, "obliged": True}, None),
        ({"cost": WORTH}, None),
        ({"cost": SLOW}, "not-worth-it"),
        ({"cost": SLOW, "obliged": True}, None),
        ({"cost": CACHED}, "cached"),
        ({"cost": CACHED, "obliged": True}, None),
        ({"cost": CACHED, "document_tokens": 300}, "fits-budget"),
        ({"cost": REUSED}, "reuse-expected"),
        ({"cost": dataclasses.replace(REUSED, reuse=0.5)}, None),
        ({"cost": dataclasses.replace(WORTH, saved_tokens=0, prune_s=0)}, "not-worth-it"),
    ],
)
def test_table(change, reason):
    assert skip_reason(dataclasses.replace(GOOD, **change)) == reason


def test_what_is_not_known_decides_nothing():
    assert skip_reason(Facts()) is None


def test_headers():
    assert (PRUNED, skipped("x"), failed("y")) == ("pruned", "skipped:x", "failed:y")


def test_decide_is_the_table():
    assert decide(GOOD) == PRUNED
    assert decide(dataclasses.replace(GOOD, cost=SLOW)) == "skipped:not-worth-it"


def test_gain_by_hand():
    """1,338 tokens of which 669 go, at 1.9 ms, with 40 ms of pruning: the first case of the cache study."""
    cost = Cost(Curve(0.03, 1.9e-3), 1338, 669, prune_s=0.04)
    assert cost.gain_s() == pytest.approx(669 * 1.9e-3 - 0.04)
    # The same document is cached but for its last block: what is lost is more than what is saved.
    warm = dataclasses.replace(cost, cached_tokens=1328, cached_tokens_lost=1310)
    assert warm.gain_s() == pytest.approx((10 - (1338 - 1328 - 669 + 1310)) * 1.9e-3 - 0.04)
    assert skip_reason(Facts(cost=warm)) == "cached"


TOKENS = st.floats(0, 1e5)


@st.composite
def costs(draw):
    curve = Curve(draw(st.floats(0, 5)), draw(st.floats(0, 0.1)), draw(st.floats(0, 1e-6)))
    prompt = draw(TOKENS)
    share = st.floats(0, 1)
    cached = prompt * draw(share)
    return Cost(
        curve,
        prompt,
        prompt * draw(share),
        cached,
        cached * draw(share),
        draw(share),
        prompt * draw(share),
        draw(st.floats(0, 5)),
    )


class TestMonotone:
    """What speaks for pruning never turns it into skipping, and the other way round."""

    def pruned(self, cost, **change):
        return skip_reason(Facts(cost=dataclasses.replace(cost, **change))) is None

    @given(costs(), TOKENS)
    def test_more_saved_tokens(self, cost, more):
        assume(self.pruned(cost))
        assert self.pruned(cost, saved_tokens=cost.saved_tokens + more)

    @given(costs(), TOKENS, st.sampled_from(["cached_tokens_lost", "prune_s", "reuse"]))
    def test_more_losses(self, cost, more, name):
        assume(not self.pruned(cost))
        assert not self.pruned(cost, **{name: getattr(cost, name) + more})

    @given(costs(), st.floats(1, 100))
    def test_a_slower_upstream(self, cost, factor):
        assume(self.pruned(cost))
        curve = cost.prefill
        slower = Curve(curve.base_s, factor * curve.per_token_s, factor * curve.per_token2_s)
        assert self.pruned(cost, prefill=slower)

    @given(costs())
    def test_nothing_saved_is_never_pruned(self, cost):
        assert not self.pruned(cost, saved_tokens=0.0)
