"""Scores that look around."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tokenprune.document import Document
from tokenprune.score.neighbours import Neighbours
from tokenprune.segment.html_blocks import HtmlBlocks
from tokenprune.tokens import get_counter


class Fixed:
    def __init__(self, scores):
        self.scores = scores

    def score(self, query, documents):
        return [np.asarray(s, dtype=float) for s in self.scores]


def html(text):
    return HtmlBlocks(1).segment(Document(text, kind="html"), get_counter())


def test_by_hand():
    units = html("<p>a</p><ul><li>b</li><li>c</li></ul><p>d</p>")
    assert units.wrapper.tolist() == [-1, 0, 0, -1]
    got = Neighbours(Fixed([[1, 0, 4, 0]]), beside=0.5, around=0.25).score("q", [units])[0]
    expected = [1 + 0.5 * (1 + 0) + 0.25 * 1, 0.5 * (1 + 4) + 0.25 * 4, 4 + 0 + 0.25 * 4, 0.5 * (4 + 0) + 0]
    assert np.allclose(got, np.array(expected) / 2.25)


@given(st.lists(st.floats(-3, 3), min_size=5, max_size=5), st.floats(0, 2), st.floats(0, 2))
def test_a_mean_on_the_same_scale(scores, beside, around):
    units = html("<p>a</p><ul><li>b</li><li>c</li><li>e</li></ul><p>d</p>")
    got = Neighbours(Fixed([scores]), beside, around).score("q", [units])[0]
    assert (got >= min(scores) - 1e-9).all() and (got <= max(scores) + 1e-9).all()
    same = Neighbours(Fixed([[2.0] * 5]), beside, around).score("q", [units])[0]
    assert np.allclose(same, 2.0)


def test_documents_do_not_touch():
    one, two = html("<p>a</p><p>b</p>"), html("<p>c</p><p>d</p>")
    got = Neighbours(Fixed([[0, 0], [9, 9]])).score("q", [one, two])
    assert got[0].tolist() == [0, 0] and np.allclose(got[1], 9)


def test_nothing():
    assert Neighbours(Fixed([[]])).score("q", [html("")])[0].tolist() == []
