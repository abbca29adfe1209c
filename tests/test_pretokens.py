"""Tokens looked up by pre-token are those that the tokenizer finds in the whole text."""

import threading
from itertools import count

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, normalizers, pre_tokenizers

from tokenprune import pretokens
from tokenprune.pretokens import PreTokens
from tokenprune.tokens import DEFAULT_TOKENIZER, TokenCounter, get_counter, load_tokenizer, sanitize

LLAMA = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN = LLAMA.replace("{1,3}", "")
GPT4O = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
NEMO = GPT4O.replace("(?i:'s|'t|'re|'ve|'m|'ll|'d)?", "").replace("{1,3}", "")


def split(pattern, behavior="isolated", invert=False):
    return pre_tokenizers.Split(Regex(pattern), behavior, invert)


def bytes_of(*, use_regex=False, add_prefix_space=False):
    return pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space, use_regex=use_regex)


def tokenizer(pre_tokenizer=None, normalizer=None):
    """The shipped vocabulary behind another pre-tokenizer."""
    made = load_tokenizer(DEFAULT_TOKENIZER)
    if pre_tokenizer is not None:
        made.pre_tokenizer = pre_tokenizer
    if normalizer is not None:
        made.normalizer = normalizer
    return made


KINDS = {
    "shipped": tokenizer(),
    "gpt2": tokenizer(bytes_of(use_regex=True)),
    "digits": tokenizer(pre_tokenizers.Sequence([pre_tokenizers.Digits(), bytes_of(use_regex=True)])),
    "llama3": tokenizer(pre_tokenizers.Sequence([split(LLAMA), bytes_of()])),
    "qwen2": tokenizer(pre_tokenizers.Sequence([split(QWEN), bytes_of()]), normalizers.NFC()),
    "gpt4o": tokenizer(pre_tokenizers.Sequence([split(GPT4O), bytes_of()])),
    "nemo": tokenizer(pre_tokenizers.Sequence([split(NEMO), bytes_of()])),
}
COUNTERS = {name: TokenCounter(name, made) for name, made in KINDS.items()}
parts = st.one_of(
    st.sampled_from([
        "don't", "I'LL", "x'S", "'re", "é", "Größe", "naïve!", "日本語", "e\u0301", "\u212b", "ſ'ſ", "²", "½", "Ⅷ", "٣", "1", "12345",
        "a1b2", "<p>", "</td>\n<td>", "href=\"/a\"", "!", "//", "/\n", ".\n", "!\n\n", "é!\n", "\u3000", "\xa0", "\u2003", "\x85",
        " ", "  ", "   ", "\n", "\n\n", "\r\n", "\t", "\t\t", "\x0b", "\x0c", "\x1c", "\x1f", "\x7f", "\u200b", "ǅ", "ʰ", "👩‍👩‍👧", "_", "AbC",
    ]),
    st.text(max_size=4),
    st.text(st.characters(max_codepoint=127), max_size=4),
)  # fmt: skip
texts = st.lists(parts, max_size=14).map("".join)


def by_tokenizer(kind, text):
    offsets = KINDS[kind].encode(sanitize(text), add_special_tokens=False).offsets
    return np.maximum.accumulate(np.array([start for start, _ in offsets], dtype=np.int64))


@pytest.mark.parametrize("kind", KINDS)
@given(text=texts)
@settings(max_examples=100)
def test_tokens_are_those_of_the_whole_text(kind, text):
    counter = COUNTERS[kind]
    assert counter._pre_tokens is not None
    want = by_tokenizer(kind, text)
    counter.forget()
    assert counter.starts(text).tolist() == want.tolist()
    assert counter.count(text) == len(want)


@pytest.mark.parametrize("kind", ["shipped", "gpt4o"])
def test_every_sign_is_read_as_the_tokenizer_does(kind):
    """Beside a letter, a space and a line end; the first 12,544 signs hold all white space but one."""
    signs = [chr(c) for c in range(1, 0x3100)]
    for start in range(0, len(signs), 64):
        some = signs[start : start + 64]
        words = "and so many plain words here that most of the text is ASCII "
        text = "".join(f"a{c}b {c}c  {c} \n{c}\nd{c} 1{c}2!{c}\n{words}" for c in some)
        found = COUNTERS[kind]._pre_tokens.starts(text)
        assert found.tolist() == by_tokenizer(kind, text).tolist(), some


@pytest.mark.parametrize(
    "made",
    [
        pre_tokenizers.Metaspace(),
        pre_tokenizers.Whitespace(),
        bytes_of(),
        bytes_of(use_regex=True, add_prefix_space=True),
        pre_tokenizers.Sequence([split(r"\d{5}|\s+"), bytes_of()]),
        pre_tokenizers.Sequence([split(r"\p{N}|\s+"), bytes_of()]),  # does not read all
        pre_tokenizers.Sequence([split(LLAMA, "removed"), bytes_of()]),
        pre_tokenizers.Sequence([split(LLAMA, invert=True), bytes_of()]),
        pre_tokenizers.Sequence([split(LLAMA), bytes_of(use_regex=True)]),
        pre_tokenizers.Sequence([split(LLAMA), pre_tokenizers.Digits(), bytes_of()]),
    ],
)
def test_other_tokenizers_are_asked_themselves(made):
    text = "A page  of 12345 words,\n don't count é!\n "
    whole = tokenizer(made)
    counter = TokenCounter("other", whole)
    assert counter._pre_tokens is None
    assert counter.count(text) == len(whole.encode(text, add_special_tokens=False))
    assert len(counter.starts(text)) == counter.count(text)
    assert counter.count("") == len(counter.starts("")) == 0


def test_other_normalizers_are_left_to_the_tokenizer():
    assert PreTokens.of(tokenizer(normalizer=normalizers.Lowercase())) is None
    assert PreTokens.of(tokenizer(normalizer=normalizers.Sequence([]))) is not None


@pytest.mark.parametrize("text", ["a <|im_start|>user\nb", "x  y <tool>z", "<|im_start|>"])
def test_added_tokens_in_the_text_are_read_as_such(text):
    made = tokenizer()
    made.add_tokens([AddedToken("  y", single_word=True), "<tool>"])
    counter = TokenCounter("added", made)
    want = made.encode(text, add_special_tokens=False)
    assert counter.count(text) == len(want)
    assert counter.starts(text).tolist() == [start for start, _ in want.offsets]
    assert counter.count_many(["plain", text, "a b"]).tolist() == [
        len(made.encode(t, add_special_tokens=False)) for t in ("plain", text, "a b")
    ]


def test_no_special_tokens_and_no_trimmed_spaces():
    """Whatever the tokenizer's post-processor would do."""
    from tokenizers.processors import ByteLevel

    made = tokenizer()
    made.post_processor = ByteLevel(trim_offsets=True)
    assert TokenCounter("trimming", made).starts("a b").tolist() == [0, 1]


def test_long_texts_are_read_in_parts(monkeypatch):
    monkeypatch.setattr(pretokens, "_TURN", 7)
    counter = TokenCounter("parts", tokenizer())
    for text in (
        "a b  c\n d" * 20,
        "word " * 30,
        "x" * 99,
        " " * 50 + "x y" * 9,
        "é b c d e f g " * 9,
        "日本語 a " * 20,
    ):
        assert counter.starts(text).tolist() == by_tokenizer("shipped", text).tolist()


def test_added_tokens_that_are_normalized_are_left_to_the_tokenizer():
    made = tokenizer(normalizer=normalizers.NFC())
    assert PreTokens.of(made) is not None
    made.add_tokens(["Vi\u1ec7t Nam"])
    assert PreTokens.of(made) is None


def test_what_is_remembered_is_bounded(monkeypatch):
    monkeypatch.setattr(pretokens, "_PIECES", 50)
    counter = TokenCounter("small", tokenizer())
    for n in range(30):
        text = " ".join(f"word{chr(97 + n)}{chr(97 + k)}" for k in range(26))
        assert counter.starts(text).tolist() == by_tokenizer("shipped", text).tolist()
        assert len(counter._pre_tokens._table.rows) <= 50 + 2 * 26


def test_from_threads():
    counter = TokenCounter("threads", tokenizer())
    places, wrong = count(), []

    def work():
        for _ in range(40):
            n = next(places)
            text = " ".join(f"x{n}y{k}é{chr(97 + n % 26)}" for k in range(30))
            if counter.count(text) != len(by_tokenizer("shipped", text)):
                wrong.append(text)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_the_shipped_one_is_read_by_pre_tokens():
    assert get_counter()._pre_tokens is not None
