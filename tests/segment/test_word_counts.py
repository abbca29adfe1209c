"""Words counted one text at a time and all at once, in scripts with and without spaces."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenprune.segment.word_counts import word_count, word_counts

texts = st.lists(
    st.text("ab1 \t\n\f&<;#/\xa0\u2003\u3000日本한カeไทยລາວမြန်ខ្មែរ\u0301\u0dff\u0f00😀", max_size=30),
    max_size=8,
)


def test_word_count():
    assert word_count("one two  three\n") == 3
    assert word_count("") == 0
    assert word_count("日本語の文章です") == 4
    assert word_count("a" * 1000) == 40


@pytest.mark.parametrize(
    "text", ["ภาษาไทย", "ພາສາລາວ", "မြန်မာဘာသာ", "ភាសាខ្មែរ", "日本語の文章", "中文句子", "カタカナ"]
)
def test_scripts_without_spaces(text):
    assert word_count(text) == word_counts([text])[0] == len(text) // 2


@given(texts)
def test_word_counts(some):
    assert word_counts(some).tolist() == [word_count(text) for text in some]


def test_word_counts_of_blobs():
    some = ["x" * 100, "日" * 7, " " * 60, "a b", ""]
    assert word_counts(some).tolist() == [word_count(text) for text in some] == [4, 3, 2, 2, 0]
