"""Where HTML units stand in their source."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from itertools import takewhile

import numpy as np

from tokenprune.arrays import IntArray
from tokenprune.segment.entities import unescape
from tokenprune.segment.invisible import is_invisible, may_hold_invisible, only_invisible
from tokenprune.units import GONE

_WORD = re.compile(r"[^ \t\n\r\f]+")
_SPACE_ENTITY = re.compile(
    r"&(?:#(?:0*(?:9|10|12|13|32)(?!\d)|x0*(?:9|a|c|d|20)(?![\da-f]));?|Tab;|NewLine;)", re.I
)
_CHARACTER = re.compile(r"&(?:#\d+|#x[0-9a-f]+|[a-z][a-z0-9]*);?|.", re.I | re.S)


def source_offsets(source: str, text: str, offsets: list[int]) -> list[int]:
    """Map offsets in a folded, escaped text to its source.

    The words stand in the same order in both; inside a word characters are counted, an entity as what it
    stands for, and characters that nobody sees where they are in the text as well.
    """
    text_words = [m.span() for m in _WORD.finditer(text)]
    source_words = [m.span() for m in _WORD.finditer(source)]
    if len(source_words) != len(text_words) and "&" in source:
        read = _SPACE_ENTITY.sub(lambda m: " " * len(m[0]), source)
        source_words = [m.span() for m in _WORD.finditer(read)]
    invisible = may_hold_invisible(source)
    if len(source_words) != len(text_words) and invisible:
        source_words = [(a, b) for a, b in source_words if not only_invisible(source[a:b])]
    found = np.searchsorted([a for a, _ in text_words], offsets, side="right") - 1
    out: list[int] = []
    current = -1
    source_ends: Sequence[int] = [0]
    text_ends: Sequence[int] = [0]
    for offset, word in zip(offsets, found.tolist(), strict=True):
        if word < 0 or word >= len(source_words):
            out.append(0 if word < 0 else len(source))
            continue
        (a, b), (c, d) = source_words[word], text_words[word]
        if word != current:
            current = word
            source_ends, text_ends = _character_ends(source[a:b]), _character_ends(text[c:d])
            if invisible:
                source_ends = _shared(source[a:b], source_ends, text[c:d])
        inside = bisect_right(text_ends, min(offset, d) - c) - 1
        begin = a + source_ends[min(inside, len(source_ends) - 1)]
        if offset > d and word + 1 < len(source_words):  # behind the word, in the white space
            begin = max(begin, source_words[word + 1][0] - 1)
        out.append(begin)
    return out


def _character_ends(word: str) -> Sequence[int]:
    """Where in a word, as it is written, the first 0, 1, 2, ... characters that it stands for end."""
    if "&" not in word:
        return range(len(word) + 1)
    ends = [0]
    for m in _CHARACTER.finditer(word):
        read = unescape(m[0])
        if read == m[0]:  # "&c" in "a&c=2" only resembles an entity
            ends += range(m.start() + 1, m.end() + 1)
        else:  # "&shy" in "&shyness" is one without its semicolon
            pairs = () if m[0].endswith(";") else zip(reversed(read), reversed(m[0]), strict=False)
            same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
            ends += [m.end() - same] * (len(read) - same)
            ends += range(m.end() - same + 1, m.end() + 1)
    return ends


def _shared(source: str, ends: Sequence[int], text: str) -> Sequence[int]:
    """Of the characters of a word of the source, the ends of those that its cleaned text has as well."""
    read, shown = unescape(source), unescape(text)
    if len(read) == len(shown) or len(ends) != len(read) + 1:
        return ends
    kept = [0]
    for character, end in zip(read, ends[1:], strict=True):
        at = len(kept) - 1
        if (at < len(shown) and character == shown[at]) or not is_invisible(character):
            kept.append(end)
    return kept


def whole_entities(text: str, cut: int) -> int:
    """Move a cut out of an entity, to its start."""
    start = text.rfind("&", max(0, cut - 8), cut)
    m = _CHARACTER.match(text, start) if start >= 0 else None
    return start if m is not None and m.end() > cut else cut


def partition(
    unit_begin: list[int], dropped: list[tuple[int, int, str]], length: int
) -> tuple[IntArray, IntArray, list[str]]:
    """Lay units and dropped ranges out so that they cover ``length`` characters without overlap.

    Args:
        unit_begin: where each unit begins; it reaches to the next.
        dropped: (start, end, reason), ascending and disjoint; they interrupt units.
        length: of the source.

    Returns:
        Start, owner and reason of each range.
    """
    starts: list[int] = []
    owners: list[int] = []
    reasons: list[str] = []

    def add(start: int, owner: int, reason: str) -> None:
        if starts and start <= starts[-1]:
            start = starts[-1]
            starts.pop(), owners.pop(), reasons.pop()
        if owners and owners[-1] == owner and reasons[-1] == reason and owner >= 0:
            return
        starts.append(start)
        owners.append(owner)
        reasons.append(reason)

    begins = np.maximum.accumulate(np.asarray(unit_begin, dtype=np.int64)) if unit_begin else np.empty(0)
    begins = np.minimum(begins, max(0, length - 1))
    units = [(int(b), u, "") for u, b in enumerate(begins.tolist())]
    if units:
        units[0] = (0, 0, "")
    elif length:
        units = [(0, GONE, "empty")]
    current, reason = GONE, "empty"
    u = 0
    for start, end, why in dropped:
        while u < len(units) and units[u][0] <= start:
            current, reason = units[u][1], units[u][2]
            add(*units[u])
            u += 1
        add(start, GONE, why)
        while u < len(units) and units[u][0] <= end:
            current, reason = units[u][1], units[u][2]
            u += 1
        if end < length:
            add(end, current, reason)
    for unit in units[u:]:
        add(*unit)
    return np.asarray(starts, dtype=np.int64), np.asarray(owners, dtype=np.int64), reasons
