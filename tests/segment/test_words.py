from itertools import pairwise

import numpy as np
import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from tokenprune.document import Document
from tokenprune.segment.tokens import Tokens
from tokenprune.segment.words import inside_words
from tokenprune.tokens import get_counter


def cuts(text):
    """The text, cut wherever it may be."""
    places = np.arange(len(text))
    starts = [*places[~inside_words(text, places)].tolist(), len(text)]
    return [text[a:b] for a, b in pairwise(starts)]


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("in 1871.", ["in", " ", "1871", "."]),
        ("rate=0.19", ["rate", "=", "0.19"]),
        ("At 10:30, don't", ["At", " ", "10:30", ",", " ", "don't"]),
        ("1,000,000 kg", ["1,000,000", " ", "kg"]),
        ("Größe №5", ["Größe", " ", "№", "5"]),
        ("東京タワー", list("東京タワー")),
        ("서울 2024", ["서울", " ", "2024"]),
        ("दुनिया की सबसे ऊँची", ["दुनिया", " ", "की", " ", "सबसे", " ", "ऊँची"]),
        ("ที่นี่", ["ที่", "นี่"]),
        ("cafe\u0301s e\u0301", ["cafe\u0301s", " ", "e\u0301"]),
        ("🇩🇪🇫🇷👩‍👩‍👧👍🏽", ["🇩🇪", "🇫🇷", "👩‍👩‍👧", "👍🏽"]),
        ("(a)(b)", ["(", "a", ")", "(", "b", ")"]),
        ("", []),
    ],
)
def test_words_and_numbers_are_whole(text, pieces):
    assert cuts(text) == pieces


def test_what_is_too_long_for_a_word_is_cut():
    assert len(cuts("x" * 64)) == 1 and len(cuts("x" * 65)) == 65


@given(st.text(max_size=40))
def test_no_character_as_readers_see_it_is_cut(text):
    ends = set(np.cumsum([len(cluster) for cluster in regex.findall(r"\X", text)]).tolist()) - {0}
    pieces = [len(piece) for piece in cuts(text)]
    assert set(np.cumsum(pieces).tolist()) <= ends | places_after_line_breaks(text)


def places_after_line_breaks(text):
    """Between the two characters of a line break may be cut."""
    return {place + 1 for place in range(len(text)) if text[place : place + 2] == "\r\n"}


@given(st.text(alphabet="ab1 .,\n東é", max_size=60))
def test_units_of_tokens_cover_the_text_and_cut_no_number(text):
    counter = get_counter("smollm2-135m")
    units = Tokens().segment(Document(text, kind="text"), counter)
    starts = units.range_start.tolist()
    assert starts == sorted(set(starts)) and starts[:1] == [0][: len(text)]
    for start in starts[1:]:
        assert not (text[start - 1] in "ab1é" and text[start] in "ab1é")
