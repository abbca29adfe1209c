from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenprune.engine.detokenize import IncrementalDetokenizer, StopMatcher

pytestmark = pytest.mark.models


@cache
def tokenizer():
    from transformers import AutoTokenizer

    from tokenprune.models.catalog import model_path

    return AutoTokenizer.from_pretrained(str(model_path("smollm2-135m")))


def decode(ids: list[int]) -> str:
    return tokenizer().decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def pieces_of(ids: list[int]) -> list[str]:
    detokenizer = IncrementalDetokenizer(tokenizer())
    return [*(detokenizer.push(token) for token in ids), detokenizer.flush()]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 49151), max_size=40))
def test_pieces_add_up_for_any_tokens(ids) -> None:
    assert "".join(pieces_of(ids)) == decode(ids)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60).map(lambda text: text.encode("utf-8", "ignore").decode()))
def test_pieces_of_text_are_whole_characters(text) -> None:
    ids = tokenizer()(text)["input_ids"]
    pieces = pieces_of(ids)
    assert "".join(pieces) == decode(ids)
    # The vocabulary lacks a few bytes of rare planes: such text does not survive tokenisation.
    if decode(ids) == text and "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in pieces)


def test_emoji_is_held_back_until_complete() -> None:
    ids = tokenizer()("a🤖b")["input_ids"]
    assert len(ids) > 3
    shown = [piece for piece in pieces_of(ids) if piece]
    assert shown == ["a", "🤖", "b"]


def test_special_tokens_are_not_text() -> None:
    assert pieces_of([2, 504, 2, 2, 3575]) == ["", "The", "", "", " capital", ""]


stops = st.lists(st.text(alphabet="ab\n", min_size=1, max_size=4), max_size=3)
chunks = st.lists(st.text(alphabet="ab\n", max_size=5), max_size=12)


@given(stops, chunks)
def test_stop_matcher_equals_a_search_in_the_whole(stop, parts) -> None:
    """No stop string in what is shown, and the text goes on with the found one where it was cut."""
    matcher = StopMatcher(stop)
    shown, found = "", None
    for part in parts:
        piece, found = matcher.push(part)
        shown += piece
        if found is not None:
            break
        assert not any(text in shown for text in stop)
    else:
        shown += matcher.flush()
    whole = "".join(parts)
    if found is None:
        assert shown == whole
        assert not any(text in whole for text in stop)
    else:
        assert whole.startswith(shown + found)
        assert not any(text in shown for text in stop)


def test_stop_string_over_several_pieces() -> None:
    matcher = StopMatcher(["\n\nQ:"])
    assert matcher.push("answer\n") == ("answer", None)
    assert matcher.push("\n") == ("", None)
    assert matcher.push("A") == ("\n\nA", None)
    assert matcher.push("\n\nQ: next") == ("", "\n\nQ:")
