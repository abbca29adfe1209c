"""Tables about tags hold against the parser that reads them."""

import pytest
from lxml import etree

from tokenprune.segment.html_tags import (
    ENDED_BY,
    ENDED_BY_MASK,
    ENDERS,
    GENERIC,
    INLINE,
    STRUCTURAL,
    is_inline,
    sets_apart,
)


class Record:
    def __init__(self):
        self.events = []

    def start(self, tag, attrs):
        self.events.append(tag)

    def end(self, tag):
        self.events.append("/" + tag)

    def data(self, text):
        pass

    def close(self):
        return self.events


def ends(outer, inner):
    """Whether libxml2 ends one element where the other starts right inside it."""
    parser = etree.HTMLParser(target=Record())
    parser.feed(f"<div><{outer}><{inner}>x</{inner}></{outer}></div>")
    return parser.close()[2:5] != ["div", outer, inner]


@pytest.mark.parametrize("outer", sorted((GENERIC | STRUCTURAL | INLINE) - {"title", "textarea"}))
def test_which_tags_end_which_elements(outer):
    found = {inner for inner in GENERIC | STRUCTURAL | INLINE if ends(outer, inner)}
    assert ENDED_BY.get(outer, set()) == found
    assert {tag for tag in ENDERS if ENDED_BY_MASK.get(outer, 0) & ENDERS[tag]} == found


def test_classes_are_disjoint():
    assert not GENERIC & STRUCTURAL
    assert not INLINE & (GENERIC | STRUCTURAL)


def test_what_sits_inside_a_line():
    """A link whose href is kept does as well."""
    for tag in (*INLINE, "a", "span", "b"):
        assert is_inline(tag)
        assert not sets_apart(f"<{tag} x=1>")
        assert not sets_apart(f"</{tag}>")
    for tag in (*GENERIC, *STRUCTURAL, "center", "body"):
        assert not is_inline(tag)
        assert sets_apart(f"<{tag}>")
        assert sets_apart(f"</{tag}>")
    assert sets_apart("<br>")
