"""Where a text may be cut without cutting a word in two.

A word is a stretch of characters without white space. Scripts that are written without spaces (Han, kana,
Thai, Lao, Khmer, Burmese, ...) have no such stretches: there every character, with the marks that belong to
it, counts for itself, and a cut on either side of it goes through no word.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable
from unicodedata import category

# Scripts without spaces between words, their punctuation included. Not Hangul: Korean has spaces.
_UNSPACED = (
    "\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u1950-\u19df\u1a20-\u1aaf\u1b00-\u1b7f\u2e80-\u2fdf\u3001-\u312f"
    "\u31a0-\u31bf\u31f0-\u31ff\u3400-\u4dbf\u4e00-\ua4cf\ua980-\ua9df\ua9e0-\ua9ff\uaa60-\uaa7f\uf900-\ufaff"
    "\ufe30-\ufe4f\uff01-\uff9f\U0001b000-\U0001b16f\U00020000-\U0003ffff"
)
_SPACED_OR_UNSPACED = re.compile(rf"\s+|[{_UNSPACED}]+")
_IS_UNSPACED = re.compile(f"[{_UNSPACED}]").match
_CLAUSE = re.compile("\\s+|[\u3001\u3002\uff0c\uff1b\uff1a\uff01\uff1f]+")
_INSIDE = re.compile(r"[,;:/&?]+")  # where a word that is too long is cut
_BLANKS = re.compile(r" +(?=\S)")
_SPACE = re.compile(r"\s+")
_LETTERS = re.compile(r"\S*?[^\W\d_]")


def may_break(text: str, at: int) -> bool:
    """Whether a cut in front of ``text[at]`` leaves all words whole."""
    if at <= 0 or at >= len(text):
        return True
    before, behind = text[at - 1], text[at]
    if before.isspace() or behind.isspace():
        return True
    return bool(_IS_UNSPACED(before) or _IS_UNSPACED(behind)) and not _joins(behind)


def next_break(text: str, at: int, end: int | None = None) -> int:
    """Return the first place from ``at`` on where no word is cut, -1 if it lies behind ``end``.

    White space behind a word goes with it.
    """
    stop = len(text) if end is None else min(end, len(text))
    while at <= stop and not may_break(text, at):
        m = _SPACED_OR_UNSPACED.search(text, at + 1, stop)
        if m is None:
            return stop if may_break(text, stop) else -1
        at = m.start() if m.start() > at else at + 1
    if at > stop:
        return -1
    m = _SPACE.match(text, at, stop)
    return m.end() if m else at


def outside_words(text: str, at: int) -> int:
    """Move the start of a sentence out of a word and behind spaces; return -1 where there is none.

    Behind "end.[1]" a sentence starts after the note; in "end.Next" none does.
    """
    if may_break(text, at):
        m = None if text[at - 1 : at].isspace() else _BLANKS.match(text, at)
        return m.end() if m else at
    if _LETTERS.match(text, at):
        return -1
    at = next_break(text, at)
    return at if at < len(text) else -1


def cut_before(text: str, start: int, high: int, reach: Callable[[int], int] | None = None) -> int:
    """Return where to end a slice that starts at ``start`` and should end at ``high``.

    At a line end or the end of a clause or word in its second half, else of an earlier word. A word that
    starts at offset i stays whole up to ``reach(i)``, which is ``high`` by default; a longer one is cut.
    """
    m = _SPACE.match(text, start, high)
    if m is not None:  # in front of a word it counts no more than behind one
        if m.end() == high:
            return high
        high, start = min(len(text), high + m.end() - start), m.end()
    low = start + (high - start) // 2
    cut = text.rfind("\n", low, high) + 1
    if cut > low:
        return cut
    if high < len(text) and text[high].isspace():
        m = _SPACE.match(text, high, 2 * high - start)
        return m.end() if m else high
    ends = [m.end() for m in _CLAUSE.finditer(text, low, high)]
    if ends and may_break(text, ends[-1]):
        return ends[-1]
    cut = _last_break(text, start, high)
    if cut > start:
        return cut
    if reach is not None:
        cut = next_break(text, high, max(high, reach(start)))
        if cut > start:
            return cut
    ends = [m.end() for m in _INSIDE.finditer(text, low, high)]
    return ends[-1] if ends else high


def _last_break(text: str, start: int, high: int) -> int:
    """The last place behind ``start``, up to ``high``, where no word is cut; -1 for none."""
    found = deque(_SPACED_OR_UNSPACED.finditer(text, start, high), maxlen=1)
    if not found:
        return -1
    last = found[0]
    at = last.end()
    while at > last.start() and not may_break(text, at):
        at -= 1
    return at if at > start else -1


def _joins(character: str) -> bool:
    """Whether a character belongs to the one before it."""
    return category(character) in ("Mn", "Mc", "Me", "Cf")
