"""Passages: cut between sentences, and in scripts without spaces as in others."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenprune.document import Document
from tokenprune.pipeline import Pipeline
from tokenprune.registry import pruner
from tokenprune.segment.passages import Passages
from tokenprune.segment.word_counts import word_count
from tokenprune.tokens import get_counter

ROOMS = {
    "en": "Room number {} has a temperature of {} degrees. ",
    "zh": "第{}号房间的温度是{}度，窗户朝北。",
    "ja": "部屋{}番の温度は{}度で、窓は北側にあります。",
    "th": "ห้องหมายเลข{}มีอุณหภูมิ{}องศาและมีหน้าต่างทางทิศเหนือ ",
    "lo": "ຫ້ອງເລກທີ{}ມີອຸນຫະພູມ{}ອົງສາ ",
    "km": "បន្ទប់លេខ{}មានសីតុណ្ហភាព{}ដឺក្រេ",
    "my": "အခန်းနံပါတ်{}၏အပူချိန်မှာ{}ဒီဂရီဖြစ်သည်။",
}


def passages(text, max_words=200):
    return Passages(max_words).segment(Document(text, kind="text"), get_counter()).texts


@pytest.mark.parametrize("language", ROOMS)
def test_long_texts_of_any_script_are_cut(language):
    text = "".join(ROOMS[language].format(i, i) for i in range(600))
    texts = passages(text)
    assert "".join(texts) == text
    assert max(map(word_count, texts)) <= 225  # of each sentence half a word may go uncounted


def test_chinese_is_pruned():
    text = "".join(ROOMS["zh"].format(i, i) for i in range(600))
    result = Pipeline([pruner("bm25-passages", top_k=1)]).prune("第577号房间的温度是多少？", [text])
    kept = result.documents[0].text
    assert "第577号房间的温度是577度" in kept and len(kept) < len(text) / 10


def test_a_sentence_without_end_is_cut_between_words():
    text = " ".join(f"word{i}" for i in range(1000))
    texts = passages(text, 50)
    assert "".join(texts) == text and len(texts) >= 20
    assert all(a[-1:] == " " for a in texts[:-1])


@given(st.text("a1 \n.。？一本ไทខ្👩\u200d\u0301", max_size=300), st.integers(1, 20))
def test_passages_cover_a_text(text, max_words):
    texts = passages(text, max_words)
    assert "".join(texts) == text and all(texts)
    if word_count(text) <= max_words:
        assert len(texts) <= 1
    assert all(word_count(a) + word_count(b) > max_words for a, b in pairwise(texts))
