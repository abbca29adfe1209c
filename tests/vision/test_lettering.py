"""Lines that fit, measured as matplotlib measures them, and fonts for characters."""

import pytest

pytest.importorskip("matplotlib")

from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.textpath import TextToPath

from tokenprune.vision.lettering import FAMILY, Letters


def inches(text, letters, size):
    font = FontProperties(family=list(letters.families), size=size)
    return TextToPath().get_text_width_height_descent(text, font, ismath=False)[0] / 72


@settings(deadline=None, max_examples=40)
@given(st.text(max_size=300), st.floats(0.5, 3), st.integers(1, 4))
def test_lines_fit_and_hold_the_text(text, width, most):
    """Whatever the text: matplotlib says of no line that a glyph is missing (warnings are errors here)."""
    letters = Letters.of([text])
    lines = letters.lines(text, width, 10, most)
    assert len(lines) <= most
    assert all(inches(line, letters, 10) <= width or len(line.rstrip("…")) == 1 for line in lines)
    whole = "".join("".join(letters.lines(text, 1000, 10, 9)).split())
    assert len(whole) <= len(text)
    joined = "".join("".join(lines).split())
    assert joined == whole or (joined.endswith("…") and whole.startswith(joined.removesuffix("…")))


def test_long_texts_are_cut_at_once():
    letters = Letters.of(["word"])
    lines = letters.lines("word " * 100_000, 3, 10, 3)
    assert len(lines) == 3 and lines[-1].endswith("word…") and not lines[0].endswith("…")
    assert letters.lines("w" * 100_000, 3, 10, 2)[0].startswith("www")
    assert letters.lines(" \n ", 3, 10, 2) == []


def test_a_mark_comes_from_the_font_of_its_letter():
    """U+0359 is not in the first font, which has all three letters; the font that has it lacks U+01A2."""
    first, other = (set(get_font(findfont(name)).get_charmap()) for name in (FAMILY, "STIXGeneral"))
    assert {0x61, 0x1A2} <= first and 0x359 not in first and 0x359 in other and 0x1A2 not in other
    letters = Letters.of(["a\u0359"])
    assert letters.families == (FAMILY, "STIXGeneral") and not letters.missing
    text = "\u01a2\u0359 b"  # warnings of missing glyphs are errors here
    letters = Letters.of([text])
    (line,) = letters.lines(text, 5, 10, 1)
    if "\u0359" in letters.missing:  # unless the machine has a font with both
        assert line == "\u01a2\u25a1 b" and "U+0359" in letters.note
    assert inches(line, letters, 10) < 5


def test_other_fonts_fill_in():
    base = set(get_font(findfont(FAMILY)).get_charmap())
    more = sorted(set(get_font(findfont("STIXGeneral")).get_charmap()) - base)
    char = next(chr(code) for code in more if chr(code).isalpha() or chr(code).isprintable())
    letters = Letters.of([f"what is {char} ?"])
    assert not letters.missing and not letters.note
    assert letters.families[0] == FAMILY and len(letters.families) == 2
    assert letters.lines(f"what is {char} ?", 5, 10, 1) == [f"what is {char} ?"]
    assert Letters.of(["plain"]).families == (FAMILY,)
