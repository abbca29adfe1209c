"""Baseline scores."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenprune.document import Document
from tokenprune.score.constant import Position, Random
from tokenprune.segment.sentences import Sentences
from tokenprune.tokens import get_counter


def sentences(count, word="Word"):
    text = " ".join(f"{word} number {n}." for n in range(count))
    return Sentences().segment(Document(text, kind="text"), get_counter())


@given(st.lists(st.integers(1, 5), max_size=4))
def test_position_falls_over_all_documents(sizes):
    scores = Position().score("", [sentences(n) for n in sizes])
    assert [len(s) for s in scores] == sizes
    flat = np.concatenate(scores) if scores else np.empty(0)
    assert (np.diff(flat) < 0).all()
    assert flat[:1].tolist() in ([], [1.0])
    assert (flat > 0).all()


def test_position_of_the_other_ends():
    units = [sentences(3), sentences(2)]
    tail = np.concatenate(Position("tail").score("", units))
    assert tail.tolist() == np.concatenate(Position().score("", units))[::-1].tolist()
    assert np.concatenate(Position("ends").score("", units)) == pytest.approx([1, 0.6, 0.2, 0.6, 1])


def test_random_is_uniform_and_repeats():
    units = sentences(2000)
    first, second = Random(7).score("q", [units])[0], Random(7).score("q", [units])[0]
    assert first.tolist() == second.tolist()
    assert 0 <= first.min() < 0.01
    assert 0.99 < first.max() < 1
    assert abs(first.mean() - 0.5) < 0.03  # 4.6 standard errors


def test_random_depends_on_seed_query_text_and_place():
    units = sentences(5)
    base = Random(0).score("q", [units])[0].tolist()
    assert Random(1).score("q", [units])[0].tolist() != base
    assert Random(0).score("r", [units])[0].tolist() != base
    assert Random(0).score("q", [sentences(5, "Other")])[0].tolist() != base
    same = Random(0).score("q", [units, units])
    assert same[0].tolist() == base != same[1].tolist()


def test_random_takes_any_text():
    units = Sentences().segment(Document("\ud800 \x00 end. Two.", kind="text"), get_counter())
    assert len(Random().score("\ud800", [units])[0]) == len(units)
