from hypothesis import given
from hypothesis import strategies as st

from tokenprune.lru import ByteLru, text_bytes


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 60))), st.integers(0, 100))
def test_bytes_are_the_sum_of_what_is_kept(puts, limit):
    lru = ByteLru(limit)
    sizes = {}
    for key, size in puts:
        lru.put(key, size, size)
        sizes[key] = size
        assert lru.bytes == sum(value for _, value in lru.items()) <= limit
    assert all(sizes[key] == value for key, value in lru.items())


def test_the_least_recently_used_leaves():
    lru = ByteLru(100, 2)
    for key in "ab":
        lru.put(key, key, 1)
    assert lru.get("a") == "a"
    lru.put("c", "c", 1)
    assert [key for key, _ in lru.items()] == ["a", "c"]
    assert lru.get("b") is None


def test_text_bytes():
    assert (text_bytes("ab"), text_bytes("é")) == (2, 4)
