"""Sentences: exact slices that cover the text, safe for code, lists and tables."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenprune.document import Document
from tokenprune.segment.by_kind import ByKind
from tokenprune.segment.sentences import Sentences, language_of, sentence_starts, split_long
from tokenprune.tokens import get_counter


def slices(text, starts):
    return [text[a:b] for a, b in zip(starts, [*starts[1:], len(text)], strict=True)]


def cut(text, language=None):
    starts = sentence_starts(text, language)
    return slices(text, starts) if starts else []


WRAPPED = "A line that was wrapped by its author's editor at seventy characters or\n"


@pytest.mark.parametrize(
    "expected",
    [
        ["One. ", "Two? ", "Three! ", "Four"],
        ["no end"],
        # abbreviations, decimals, versions, addresses
        ["Dr. Smith paid $3.50 to Mr. Jones. ", "He left."],
        ["See e.g. the manual, i.e. page 3. ", "Then stop."],
        ["The U.S. economy grew. ", "Prices rose by 3.14 percent."],
        ["Version 1.2.3 is out. ", "Get it at www.example.org. ", "Now."],
        ["Fig. 3 shows it. ", "No. 5 is alive. ", "Cf. also p. 10."],
        ["I have 5 apples. ", "3 are red."],
        # quotes, brackets, runs of marks
        ['He said "Stop. Now." ', "Then he left."],
        ["Really?! ", "Yes... ", "Maybe."],
        # paragraphs and wrapped lines
        ["A sentence.\n", "Another one.\n\n", "A paragraph."],
        ["A sentence.\r\n", "Another one.\r\n\r\n", "A paragraph."],
        [WRAPPED + "so goes on here. ", "Next one."],
        [WRAPPED + "So it goes on here. ", "Next one."],
        ["short line\n", "Another short line\n", "third"],
        ["   leading. ", "And trailing.   \n\n "],
        # lists
        ["Intro:\n", "- first item. It has two sentences.\n", "- second item\n", "* third\n"],
        ["1. First step.\n", "2. Second step.\n", "10. Tenth step."],
        ["(a) one\n", "(b) two\n"],
        ["- nested\n", "  - inner item. Two.\n", "  - other\n"],
        # code
        ["Text before.\n", "```python\nx = 1. + 2.\n\ny = 'A. B'\n```\n", "Text after. ", "More."],
        ["~~~\na. B\n~~~\n", "end."],
        ["````\n```\nA. B.\n```\n````\n", "End."],
        ["```\nnever closed. Two.\nThree."],
        ["Para.\n\n", "    code. Line\n\n    more. Code\n\n", "After."],
        # tables and headings
        ["| a. B | c |\n", "|---|---|\n", "| d. E | f |\n", "After the table. ", "Yes."],
        ["# Heading\n", "Text one. ", "Text two.\n", "## Sub\n", "More."],
        # Japanese, Chinese, mixed
        ["これは文です。", "次の文です！", "最後？", "はい"],
        ["这是句子。", "第二句！", "第三句？", "好"],
        ["Mixed 日本語です。", "English here. ", "終わり。"],
        # only white space
        ["\n\n\n"],
        [" "],
    ],
    ids=lambda parts: "".join(parts)[:24],
)
def test_slices(expected):
    assert cut("".join(expected)) == expected


def test_empty():
    assert sentence_starts("") == []


def test_language_is_asked_for():
    text = "Das ist z. B. gut. Ja."
    assert cut(text, "de") == ["Das ist z. B. gut. ", "Ja."]


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("plain", "en"),
        ("", "en"),
        ("漢字だ", "ja"),
        ("カタカナ", "ja"),
        ("中文", "zh"),
        ("한국어", "en"),
        ("a" * 2000 + "中", "en"),
    ],
)
def test_language_of(text, language):
    assert language_of(text) == language


@given(data=st.data())
def test_slices_cover_any_text(data, strategies):
    text = data.draw(strategies.text)
    starts = sentence_starts(text)
    assert starts == sorted(set(starts))
    assert (starts[:1] == [0]) == bool(text)
    assert all(s < len(text) for s in starts)
    if text.strip():
        assert all(part.strip() for part in cut(text)), "a unit of nothing but white space"


@given(data=st.data())
def test_fences_are_never_cut(data, strategies):
    before, after = data.draw(strategies.prose), data.draw(strategies.prose)
    code = "```\nfirst. Second! Third?\n\n    x = 1. Y\n- z. W\n```\n"
    text = f"{before}\n{code}{after}"
    inside = range(text.index(code) + 1, text.index(code) + len(code))
    assert not set(inside) & set(sentence_starts(text))


def test_split_long():
    assert slices("aaa bbb ccc ddd", split_long("aaa bbb ccc ddd", [0], 8)) == ["aaa bbb ", "ccc ddd"]
    assert slices("a" * 10, split_long("a" * 10, [0], 4)) == ["aaaa", "aaaa", "aa"]
    assert slices("xx, yy zz aa", split_long("xx, yy zz aa", [0], 7)) == ["xx, yy ", "zz aa"]
    assert slices("one two\nthree four", split_long("one two\nthree four", [0], 14)) == [
        "one two\n",
        "three four",
    ]
    assert split_long("short. other.", [0, 7], 7) == [0, 7]


@pytest.mark.parametrize(
    ("text", "most", "expected"),
    [
        ("aaa 1,000,000 bbb", 9, ["aaa ", "1,000,000 ", "bbb"]),
        ("a &lt;code> b", 9, ["a ", "&lt;code> ", "b"]),
        ("aa bbbbbbb", 8, ["aa ", "bbbbbbb"]),
        ("  aaaa bbbb", 4, ["  aaaa ", "bbbb"]),
        ("漢字漢字needle", 6, ["漢字漢字", "needle"]),
        ("漢字、漢字漢字漢字", 6, ["漢字、漢字漢", "字漢字"]),
        ("漢字漢字、漢字漢字", 6, ["漢字漢字、", "漢字漢字"]),
        ("กขค้งจ", 3, ["กข", "ค้ง", "จ"]),  # a tone mark stays with its letter
        ("wwwwwwwww", 4, ["wwww", "wwww", "w"]),
        ("ab,cd.ef", 5, ["ab,", "cd.ef"]),  # too long a word ends at a sign in it
    ],
)
def test_words_are_not_cut(text, most, expected):
    assert slices(text, split_long(text, [0], most)) == expected


@pytest.mark.parametrize(
    "expected",
    [
        ["It is so.[1] ", "Then it was.[2][3] ", "More."],
        ["This is the end.Next comes nothing. ", "Last."],
        ["Write Foo.<b>Bar.</b> now. ", "Last."],
        ["日本語です。", "English here. ", "終わり。"],
    ],
)
def test_no_sentence_starts_in_a_word(expected):
    assert cut("".join(expected)) == expected


def test_words_too_long_for_a_part_but_not_for_the_budget_stay():
    """Parts of about half a budget: a word longer than a part, but not than the budget, is not cut."""
    word = "antidisestablishmentarianism"
    counter = get_counter()
    most = counter.count(f" {word}")
    assert most >= 4
    text = f"a b c {word} d e f {word} g h i."
    units = Sentences(max_tokens=most).segment(Document(text, kind="text"), counter)
    assert len(units) > 2
    assert sum(word in t for t in units.texts) == 2


def test_split_long_of_nothing():
    assert split_long("", [], 10) == []


@given(st.text(), st.integers(1, 12))
def test_split_long_covers(text, most):
    starts = split_long(text, [0], most)
    assert starts == sorted(set(starts))
    assert all(len(part.strip()) <= most for part in slices(text, starts))
    assert all(len(part) <= 3 * most for part in slices(text, starts))


@pytest.mark.parametrize("segmenter", [Sentences(), Sentences(20), ByKind()], ids=["1000", "20", "by kind"])
def test_units(segmenter):
    text = "First sentence here. " + "word " * 400 + "end. Last one."
    counter = get_counter()
    units = segmenter.segment(Document(text, kind="text"), counter)
    assert "".join(units.texts) == text
    assert units.texts[0] == "First sentence here. "
    assert max(len(t.strip()) for t in units.texts) <= getattr(segmenter, "max_characters", 1000)
    assert int(units.cost.sum()) == counter.count(text)
    assert units.range_start.tolist() == [sum(map(len, units.texts[:n])) for n in range(len(units))]
    assert units.lead.tolist() == [-1] * len(units)


@pytest.mark.parametrize("text", ["", " ", "\n", "\x00", "\ud800", "👩‍👩‍👧"])
def test_units_of_tiny_texts(text):
    units = Sentences().segment(Document(text, kind="text"), get_counter())
    assert units.texts == ([text] if text else [])


def test_language_of_the_metadata_is_used():
    text = "Das ist z. B. gut. Ja."
    document = Document(text, kind="text", metadata={"language": "de"})
    assert Sentences().segment(document, get_counter()).texts == ["Das ist z. B. gut. ", "Ja."]


@pytest.mark.parametrize(
    "sentence", ["埃菲尔铁塔位于巴黎。", "它完工了!？", "他说：「是。」然后走了。 ", "塔は完成した。\u3000"]
)
def test_a_book_without_spaces_or_lines_is_read_in_parts(sentence, monkeypatch):
    """sentencex takes time with the square of such a paragraph."""
    from tokenprune.segment import sentences

    given, real = [], sentences.get_sentence_boundaries

    def noted(language, text):
        given.append(len(text))
        return real(language, text)

    monkeypatch.setattr(sentences, "get_sentence_boundaries", noted)
    text = sentence * 3000
    starts = sentence_starts(text)
    assert max(given) < 5100 and sum(given) == len(text)
    own = sentence_starts(sentence)
    assert starts == [n * len(sentence) + at for n in range(3000) for at in own]


def test_english_is_read_in_one_part():
    text = "The tower was finished in 1889. Cats sleep. " * 500
    assert len(sentence_starts(text)) == 1000


@pytest.mark.parametrize("text", ["word " * 30_000, "``` " * 40_000, "x" * 150_000])
def test_a_long_text_without_an_end_is_one_sentence(text):
    assert sentence_starts(text) == [0]


def test_long_paragraphs_are_cut_as_short_ones_are():
    part = (
        "One sentence stands here. Another one follows it, " + "and it goes on " * 3_000 + "to its end.\n\n"
    )
    starts = sentence_starts(part)
    assert sentence_starts(part * 3) == [n * len(part) + s for n in range(3) for s in starts]
