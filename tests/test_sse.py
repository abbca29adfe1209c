"""Server-sent events from bytes that are cut anywhere."""

import itertools
import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tokenprune.sse import EventDecoder


def decode(chunks):
    decoder = EventDecoder()
    found = [data for chunk in chunks for data in decoder.feed(chunk)]
    last = decoder.finish()
    return found if last is None else [*found, last]


payloads = st.one_of(
    st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\r\n"), min_size=1, max_size=30),
    st.dictionaries(st.text(max_size=5), st.text(max_size=10), max_size=3).map(json.dumps),
)
ends = st.sampled_from(["\n", "\r", "\r\n"])
noise = st.sampled_from(["", ": keep-alive", "event: message", "id: 7", "retry: 10", "unknown"])


@st.composite
def streams(draw):
    """A stream as bytes, its payloads, and places where it is cut."""
    sent, text, end = draw(st.lists(payloads, max_size=6)), "", draw(ends)
    for payload in sent:
        if extra := draw(noise):
            text += extra + end + (end if extra[0] == ":" and draw(st.booleans()) else "")
        text += f"data:{draw(st.sampled_from([' ', '']))}{payload}{end}{end}"
    data = text.encode()
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=8)))
    return data, sent, cuts


@given(streams())
@example((b"data: a\r\n\r\ndata: b\r\n\r\n", ["a", "b"], [8, 10, 11]))
@example(("data: \u20ac\n\n".encode(), ["\u20ac"], [7, 8, 9]))
def test_the_same_events_wherever_the_bytes_are_cut(stream):
    data, sent, cuts = stream
    edges = [0, *cuts, len(data)]
    # One space after the colon is not part of the value, a second one is.
    assert decode([data[a:b] for a, b in itertools.pairwise(edges)]) == [
        payload if b"data: " + payload.encode() in data else payload.removeprefix(" ") for payload in sent
    ]
    assert decode([data[i : i + 1] for i in range(len(data))]) == decode([data])


def test_events_come_as_soon_as_they_are_complete():
    decoder = EventDecoder()
    assert decoder.feed(b"data: 1\n") == []
    assert decoder.feed(b"\n") == ["1"]
    assert decoder.feed(b"data: 2\r\r") == ["2"]  # not only when the next line shows that it is no \r\n
    assert decoder.feed(b"\ndata: 3\n\n") == ["3"]


@pytest.mark.parametrize(
    ("data", "events"),
    [
        (b"\xef\xbb\xbfdata: x\n\n", ["x"]),
        (b"data: a\ndata: b\n\n", ["a\nb"]),
        (b"data\n\n", [""]),
        (b": only a comment\n\n\n\n", []),
        (b"data: [DONE]", ["[DONE]"]),
        (b"data: [DONE]\n", ["[DONE]"]),
        (b"data: \xff\n\n", ["\ufffd"]),
        ("data: a\u2028b\n\n".encode(), ["a\u2028b"]),
    ],
)
def test_corners(data, events):
    assert decode([data]) == events
