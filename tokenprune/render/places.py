"""Where the characters of a rewritten output stand in the source."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import unescape

import numpy as np

from tokenprune.segment.html_ranges import source_offsets
from tokenprune.segment.html_tags import attributes
from tokenprune.units import OffsetMap, Pieces, Rendered

_WORD = re.compile(r"\S")
_NAME = re.compile(r"\A<[^\s/>]*")
_ESCAPED = re.compile(r"&(?:amp|lt);")


def source_attributes(pieces: Pieces, i: int) -> dict[str, str]:
    """The attributes of a start tag as they stand in the source, those included that cleaning drops."""
    tag = pieces.source[int(pieces.src_start[i]) : int(pieces.src_end[i])]
    return attributes(_NAME.sub("", tag).rstrip(">"))


@dataclass
class Parts:
    """An output under construction: parts of text, each made of one piece.

    Attributes:
        text: the parts.
        piece: which piece each one was made of; ascending.
        literal: whether a part holds the piece's own words; the others are markup and white space.
    """

    text: list[str] = field(default_factory=list)
    piece: list[int] = field(default_factory=list)
    literal: list[bool] = field(default_factory=list)

    def add(self, text: str, piece: int, *, literal: bool = False) -> int:
        """Add a part and return its number."""
        self.text.append(text)
        self.piece.append(piece)
        self.literal.append(literal)
        return len(self.text) - 1

    def rendered(self, pieces: Pieces) -> Rendered:
        """Return the output as plain text with its places in the source."""
        full = [n for n, text in enumerate(self.text) if text]
        text = [self.text[n] for n in full]
        made_of = [self.piece[n] for n in full]
        literal = [self.literal[n] for n in full]
        lengths = np.fromiter(map(len, text), dtype=np.int64, count=len(text))
        rows = np.asarray(made_of, dtype=np.int64)
        start, end = pieces.src_start[rows], pieces.src_end[rows]
        # White space in front of a piece may be folded away.
        source = pieces.source
        begin = start.copy()
        for n, a in enumerate(start.tolist()):
            if literal[n] and source[a : a + 1].isspace() and not text[n][0].isspace():
                m = _WORD.search(source, a)
                begin[n] = m.start() if m else a
        begin = np.minimum(np.maximum.accumulate(begin), end) if len(begin) else begin
        known: dict[int, Sequence[int]] = {}  # of the part asked for last

        def resolve(part: int, inside: int) -> int:
            a, b = int(start[part]), int(end[part])
            if not literal[part]:
                return a
            if part not in known:
                known.clear()
                known[part] = _places(source[a:b], pieces.text[made_of[part]], text[part])
            return a + known[part][inside]

        offsets = OffsetMap(np.cumsum(lengths) - lengths, begin, end, resolve)
        return Rendered("".join(text), offsets, "text", pieces.owner[rows])


def _places(source: str, piece: str, out: str) -> Sequence[int]:
    """Where each character of ``out``, and its end, stands in the source of the piece it was made of.

    ``out`` holds the characters that ``piece`` stands for in their order; white space may be folded, and
    backslashes and line prefixes may stand between.
    """
    starts: list[int] = []  # of the characters that the piece stands for
    position = 0
    for m in _ESCAPED.finditer(piece):
        starts += range(position, m.start() + 1)
        position = m.end()
    starts += range(position, len(piece) + 1)
    characters = unescape(piece)
    at: list[int] = []
    i = o = 0
    while o < len(out):
        if i >= len(characters):
            at.append(len(piece))
            o += 1
        elif out[o] == characters[i] or (out[o].isspace() and characters[i].isspace()):
            at.append(starts[i])
            i, o = i + 1, o + 1
        elif characters[i].isspace():
            i += 1
        else:
            at.append(starts[i])
            o += 1
    at.append(len(piece))
    return source_offsets(source, piece, at)
