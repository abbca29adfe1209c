"""Counting tokens."""

import lzma
from importlib import resources

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from tokenprune.errors import ModelError, UnknownNameError
from tokenprune.tokens import DEFAULT_TOKENIZER, TokenCounter, counts_between, get_counter, sanitize

ODD = [
    "",
    " ",
    "\n\n",
    "a",
    "é",
    "e\u0301",
    "👩‍👩‍👧",
    "🇩🇪",
    "日本語",
    "\x00",
    "\ud800",
    "\udfffx",
    "\ufeff",
    " a",
    "a ",
    "\r\n",
    "<|im_start|>",
]


@pytest.fixture(scope="module")
def counter():
    return get_counter()


@pytest.fixture(scope="module")
def tokenizer_json(tmp_path_factory):
    packed = (resources.files("tokenprune") / "data" / "smollm2-tokenizer.json.xz").read_bytes()
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    path.write_bytes(lzma.decompress(packed))
    return path


def test_equals_the_tokenizer(counter, tokenizer_json):
    plain = Tokenizer.from_file(str(tokenizer_json))
    for text in ["Hello world", "日本語 text, e.g. 3.14!", "def f(x):\n    return x\n", "a" * 1000]:
        assert counter.count(text) == len(plain.encode(text, add_special_tokens=False).ids)
    assert counter.count("Hello world") == 2


@pytest.mark.parametrize("text", ODD)
def test_odd_texts(counter, text):
    n = counter.count(text)
    assert (n == 0) == (text == "")
    assert len(counter.starts(text)) == n


@given(data=st.data())
def test_count_starts_and_count_many_agree(counter, data, strategies):
    texts = data.draw(st.lists(strategies.text, max_size=4))
    counts = [counter.count(t) for t in texts]
    many = counter.count_many(texts)
    assert many.dtype == np.int64
    assert many.tolist() == counts
    for text, n in zip(texts, counts, strict=True):
        starts = counter.starts(text)
        assert starts.dtype == np.int64
        assert len(starts) == n
        assert (np.diff(starts) >= 0).all()
        assert all(0 <= s < len(text) for s in starts.tolist())


@given(data=st.data())
def test_counts_between_add_up(counter, data, strategies):
    text = data.draw(strategies.text)
    cuts = data.draw(st.sets(st.integers(0, len(text)), max_size=5))
    bounds = np.array(sorted({0, len(text), *cuts}), dtype=np.int64)
    starts = counter.starts(text)
    counts = counts_between(starts, bounds)
    if len(bounds) > 1:
        assert int(counts.sum()) == len(starts)
        for a, b, n in zip(bounds[:-1].tolist(), bounds[1:].tolist(), counts.tolist(), strict=True):
            inside = [s for s in starts.tolist() if a <= s < b]
            assert n == len(inside)


def test_counts_between_takes_what_lies_outside():
    assert counts_between(np.array([0, 2, 4, 9]), np.array([1, 3, 5])).tolist() == [2, 2]


@given(st.text(st.characters(exclude_categories=())))
def test_sanitize(text):
    safe = sanitize(text)
    assert len(safe) == len(text)
    safe.encode()
    assert "\x00" not in safe
    assert [a for a, b in zip(text, safe, strict=True) if a != b] == [
        c for c in text if c == "\x00" or "\ud800" <= c <= "\udfff"
    ]


def test_counter_is_shared(counter):
    assert get_counter(DEFAULT_TOKENIZER) is counter, "the default tokenizer is loaded twice"
    assert counter.name == DEFAULT_TOKENIZER


def test_starts_are_remembered_and_cannot_be_changed(tokenizer_json):
    counter = get_counter(str(tokenizer_json))
    text = "Eiffel's tower, one of many"
    first = counter.starts(text)
    assert counter.starts("".join(list(text))) is first
    with pytest.raises(ValueError, match="read-only"):
        first[0] = 1
    counter.forget()
    again = counter.starts(text)
    assert again is not first
    assert again.tolist() == first.tolist()


@pytest.mark.parametrize("text", ["word " * 2**21, "鯨" * 2**20, " " * 2**23])
def test_a_long_text_is_counted_and_not_remembered(counter, text):
    starts = counter.starts(text)
    assert len(starts) == counter.count(text)
    assert counter._known.bytes <= counter._known.max_bytes
    assert counter._known.get(text) is None


def test_folder_and_file(tokenizer_json, counter):
    text = "One text, two counters."
    for name in (str(tokenizer_json), str(tokenizer_json.parent)):
        assert get_counter(name).count(text) == counter.count(text)


def test_truncation_of_the_file_is_undone(tokenizer_json, tmp_path):
    tokenizer = Tokenizer.from_file(str(tokenizer_json))
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=8)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    counter = get_counter(str(tmp_path))
    assert counter.count("one two three four five six") == 6
    assert counter.count("one") == 1


@pytest.mark.parametrize("name", ["nonesuch", "no such/name at all", ""])
def test_unknown_name_lists_what_is_known(name):
    with pytest.raises(UnknownNameError, match=r"unknown tokenizer .*tokenizer.json.*smollm2-135m") as caught:
        get_counter(name)
    assert caught.value.name == name
    assert caught.value.known.count(DEFAULT_TOKENIZER) == 1


def test_folder_without_a_tokenizer(tmp_path):
    with pytest.raises(UnknownNameError, match="unknown tokenizer"):
        get_counter(str(tmp_path))


def test_counter_from_a_tokenizer(tokenizer_json):
    mine = TokenCounter("mine", Tokenizer.from_file(str(tokenizer_json)))
    assert (mine.name, mine.count("Hello world")) == ("mine", 2)


class Session:
    """A hub that nobody reaches."""

    def head(self, *_, **__):
        raise OSError("no route to the hub\nand much more\nof this")


def test_unreachable_tokenizer_is_one_line(monkeypatch):
    """Its client would try again and again: it is not even asked."""
    monkeypatch.setattr("huggingface_hub.get_session", Session)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    with pytest.raises(ModelError) as caught:
        get_counter("zzz/yyy")
    message = str(caught.value)
    assert "\n" not in message
    assert "'zzz/yyy' cannot be fetched: no route to the hub; name a folder" in message


def test_unreachable_tokenizer_that_was_fetched_before(monkeypatch, tmp_path):
    path = tmp_path / "tokenizer.json"
    get_counter()._tokenizer.save(str(path))
    monkeypatch.setattr("huggingface_hub.get_session", Session)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: str(path))
    assert get_counter("zzz/cached").count("Two words") == get_counter().count("Two words")
