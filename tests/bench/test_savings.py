"""Sums of a log, and the prefix cache on paper, against values worked out by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenprune.bench.prefix_cache import BLOCK, PrefixCache
from tokenprune.bench.savings import Ledger, Prices, Prompt
from tokenprune.tokens import get_counter

COUNTER = get_counter()


def words(n, word=" cat"):
    text = word * n
    assert COUNTER.count(text) == n
    return text


def test_only_whole_blocks_of_the_same_beginning():
    cache = PrefixCache(COUNTER, 10_000)
    assert cache.read(words(40)) == (40, 0)
    assert cache.read(words(40)) == (40, 32)
    assert cache.read(words(32)) == (32, 16)  # the last token is computed in any case, with its block
    assert cache.read(words(33)) == (33, 32)
    assert cache.read(words(20) + words(20, " dog")) == (40, 16)
    assert cache.read(" dog" + words(39)) == (40, 0)  # the blocks are the same, what stands before is not
    assert cache.read(words(15)) == (15, 0)
    assert cache.read("") == (0, 0)


def test_a_full_cache_forgets_the_oldest():
    cache = PrefixCache(COUNTER, 3 * BLOCK)
    cache.read(words(3 * BLOCK + 1))
    assert cache.read(words(3 * BLOCK + 1)) == (49, 48)
    cache.read(words(BLOCK, " dog"))
    # The end of the long prompt left, its beginning is still there.
    assert cache.read(words(3 * BLOCK + 1)) == (49, 32)
    none = PrefixCache(COUNTER, 0)
    none.read(words(50))
    assert none.read(words(50)) == (50, 0)


@given(st.lists(st.text("ab \n", max_size=120), max_size=6), st.integers(0, 200))
def test_never_more_cached_than_a_common_beginning(prompts, capacity):
    cache = PrefixCache(COUNTER, capacity)
    seen = []
    for prompt in prompts:
        tokens, cached = cache.read(prompt)
        assert tokens == COUNTER.count(prompt)
        assert cached <= max(0, tokens - 1) and (not cached or capacity >= BLOCK)
        if cached:
            length = COUNTER.starts(prompt)[cached]
            assert any(other.startswith(prompt[:length]) for other in seen)
        seen.append(prompt)


def test_sums_by_hand():
    ledger = Ledger(lambda tokens, cached: (tokens - cached) / 100, Prices(2.0, 0.5))
    ledger.add("a", Prompt(1000, 200), Prompt(300, 0), "pruned", 0.5)
    ledger.add("b", Prompt(100), Prompt(100), "skipped:few-shot", 0.25)
    report = ledger.to_dict()
    total = report["total"]
    assert list(report["kinds"]) == ["a", "b"]
    assert (total["requests"], total["saved_tokens"], total["cached_tokens_lost"]) == (2, 700, 200)
    assert total["saved_share"] == pytest.approx(700 / 1100)
    assert total["before"]["prefill_seconds"] == pytest.approx(9)
    assert total["saved_prefill_seconds"] == pytest.approx(5)
    assert total["saved_seconds_net"] == pytest.approx(4.25)
    assert total["before"]["usd"] == pytest.approx((800 * 2 + 200 * 0.5 + 100 * 2) / 1e6)
    assert total["saved_usd"] == pytest.approx((1700 - 600) / 1e6)
    assert total["decisions"] == {"pruned": 1, "skipped:few-shot": 1}
    assert report["kinds"]["b"]["saved_tokens"] == 0


def test_what_nobody_asked_for_is_none():
    ledger = Ledger()
    ledger.add("a", Prompt(10), Prompt(5), "pruned", 0.1)
    total = ledger.to_dict()["total"]
    assert total["saved_usd"] is None and total["saved_seconds_net"] is None
    assert Ledger().to_dict()["total"]["saved_share"] == 0
    assert Prices(2.0).cost(10, 5) == pytest.approx(20e-6)  # cached tokens cost the same unless told
