"""What is asked for silver labels, and how the citations of an answer are read."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenprune.training.citations import cited, prompt, read
from tokenprune.training.sets import Passage


def passages(*sizes):
    return [
        Passage(f"T{i}", tuple(f"Sentence {i}.{j}." for j in range(n)), (0,) * n) for i, n in enumerate(sizes)
    ]


def test_sentences_are_numbered_through_all_passages():
    asked = prompt("Who\nis it?", [*passages(2, 1), Passage("", ("a\n[7] b \ud800",), (0,))])
    lines = asked.splitlines()
    assert [x for x in lines if x.startswith(("#", "[", "Question"))] == [
        "# T0",
        "[1] Sentence 0.0.",
        "[2] Sentence 0.1.",
        "# T1",
        "[3] Sentence 1.0.",
        "[4] a [7] b \ufffd",
        "Question: Who is it?",
    ]


@pytest.mark.parametrize(
    ("answer", "numbers"),
    [
        ("It is so [2].", [2]),
        ("A [1][3], b [2].", [1, 2, 3]),
        ("A [1,3] and [ 2 ; 4 ].", [1, 2, 3, 4]),
        ("A [2-4].", [2, 3, 4]),
        ("A [4\u20132, 6].", [2, 3, 4, 6]),
        ("A [1 to 3 and 5].", [1, 2, 3, 5]),
        ("A [Sentence 2], [sentences 3 & 4].", [2, 3, 4]),
        ("A \u30105\u3011.", [5]),
        ("A [#2].", [2]),
        ("A [0], [9], [99999999999999999999], [7-99999999999999999999].", [7, 8]),
        ("A [[3]].", [3]),
        ("In 1999 [sic] [see 4] [fig. 2] (3) 5.", []),
        ("[", []),
        ("]1[ [2", []),
        ("[2.5]", []),
        ("", []),
    ],
)
def test_forms_of_citations(answer, numbers):
    assert cited(answer, 8) == [n - 1 for n in numbers]


groups = st.lists(
    st.tuples(
        st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40) | st.none()), min_size=1, max_size=4),
        st.sampled_from([", ", ",", "; ", " and ", " "]),
        st.sampled_from(["-", " - ", "\u2013", " to "]),
        st.text(st.characters(exclude_characters="[]\u3010\u3011"), max_size=8),
    ),
    max_size=6,
)


@given(groups, st.integers(1, 30))
def test_whatever_is_cited_is_read(made, count):
    text, expected = "", set()
    for ranges, comma, dash, between in made:
        words = []
        for low, high in ranges:
            words.append(str(low) if high is None else f"{low}{dash}{high}")
            ends = (low, low if high is None else high)
            expected |= set(range(min(ends), max(ends) + 1))
        text += between + "[" + comma.join(words) + "]"
    assert cited(text, count) == sorted(n - 1 for n in expected if 1 <= n <= count)


@given(
    st.text(st.sampled_from("[]\u3010\u3011 0123456789,-\u2013tosandent.NAwer"), max_size=200),
    st.integers(0, 9),
)
def test_no_text_breaks_the_reader(text, count):
    found = cited(text, count)
    assert found == sorted(set(found)) and all(0 <= n < count for n in found)
    if count:
        reading = read(text, passages(count))
        labels = [n for n, label in enumerate(reading.passages[0].labels) if label]
        assert labels == (found if reading.kind == "answered" else [])


def test_a_long_answer_takes_no_longer_than_its_length():
    for text in ("[" * 200_000, "[1" + " " * 200_000, "[" + "1 " * 100_000, "[" + "1-" * 100_000 + "]"):
        cited(text, 5)  # quadratic work would take minutes here and run into the time limit of the tests


@pytest.mark.parametrize(
    ("answer", "kind", "labels"),
    [
        ("It is [1], see [3].", "answered", [(1, 0), (1,)]),
        ("It is so.", "uncited", [(0, 0), (0,)]),
        ("It is so [9].", "uncited", [(0, 0), (0,)]),
        ("", "uncited", [(0, 0), (0,)]),
        ("No answer", "no answer", [(0, 0), (0,)]),
        ('"no  answer."', "no answer", [(0, 0), (0,)]),
        ("No answer [1].", "no answer", [(0, 0), (0,)]),
        ("No answer. The sentences are about cats.", "no answer", [(0, 0), (0,)]),
        ("No answer in full, but it is red [2].", "answered", [(0, 1), (0,)]),
        ("There is no answer.", "uncited", [(0, 0), (0,)]),
    ],
)
def test_reading(answer, kind, labels):
    reading = read(answer, passages(2, 1))
    assert reading.kind == kind
    assert [p.labels for p in reading.passages] == labels
    assert "[" not in reading.answer
