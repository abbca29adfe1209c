"""Characters that nobody sees: a model reads them all the same, so a page can hide a prompt in them.

Dropped are zero-width characters and soft hyphens, Unicode tags, and characters that turn the direction of
what follows (those also reorder what people see). The same signs have honest uses, which stay:

- U+200C and U+200D beside a letter of a script that joins (Arabic, Indic, ...), U+200D between emoji;
- U+200B between letters of Thai, Lao, Khmer and Burmese, which write no spaces;
- U+200E, U+200F and U+061C (direction marks) beside anything visible: they are common in Hebrew and Arabic
  text, hold no content and turn nothing but the punctuation beside them;
- one variation selector behind a visible character, and the tags of a flag;
- the fillers of Hangul (U+115F, U+1160, U+3164, U+FFA0) beside single letters of the same block, where they
  stand for a missing one, and U+180E between Mongolian letters.

Of a run of such characters at most one of each kind stays, so none of these can spell a message.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from html import escape
from html.entities import html5
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokenprune.segment.entities import unescape

ZERO_WIDTH, BIDI, TAGS = "hidden:zero-width", "hidden:bidi", "hidden:tag-characters"

Dropped = tuple[int, int, str]  # start, end, reason

_BIDI = "\u202a-\u202e\u2066-\u2069"
_TAG = "\U000e0000-\U000e007f"
_VARIANT = "\ufe00-\ufe0f\U000e0100-\U000e01ef"
_MARKS = "\u200e\u200f\u061c"
_FILLERS = "\u115f\u1160\u180e\u3164\uffa0"
_CLASS = (
    f"[\u00ad{_FILLERS}{_MARKS}"
    f"\u200b-\u200d\u2060-\u2064\u206a-\u206f\ufeff\ufff9-\ufffb{_BIDI}{_TAG}{_VARIANT}]"
)
_ONE = re.compile(_CLASS)
_NAMES = "|".join(
    sorted({n.rstrip(";") for n, value in html5.items() if all(map(_ONE.match, value))}, reverse=True)
)
_ENTITY = rf"&(?:#\d++|#x[0-9a-f]++|{_NAMES});?+"
_PART = re.compile(rf"{_CLASS}++|{_ENTITY}", re.I)
_REFERENCE = re.compile(_ENTITY, re.I)
_ANY_REFERENCE = re.compile(r"&[#a-zA-Z0-9]++;?+")
_REASON = re.compile(f"(?P<bidi>[{_BIDI}]+)|(?P<tag>[{_TAG}]+)|[^{_BIDI}{_TAG}]+")
_FLAG = re.compile("[\U000e0030-\U000e0039\U000e0061-\U000e007a]{3,6}\U000e007f")
_BEFORE = re.compile(r"&(?:#x?[0-9a-f]{1,9}|[a-z][a-z0-9]{1,30});\Z", re.I)
_BEHIND = re.compile(r"&(?:#x?[0-9a-f]{1,9}|[a-z][a-z0-9]{1,30});?", re.I)
# Scripts whose letters change their shape beside a joiner, by blocks of the Unicode Standard.
_JOINS = re.compile(
    "[\u0600-\u0dff\u1000-\u109f\u1780-\u18af\u1a00-\u1bff\ua800-\uabff\ufb50-\ufdff\ufe70-\ufefc"
    "\U00010a00-\U00010d3f\U00011000-\U00011fff\U0001e900-\U0001e95f]"
)
_UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u1a20-\u1aaf]")
# What each filler stands with.
_LETTERS = {
    **dict.fromkeys("\u115f\u1160", re.compile("[\u1100-\u11ff\ua960-\ua97f\ud7b0-\ud7ff]")),
    "\u3164": re.compile("[\u3131-\u318e]"),
    "\uffa0": re.compile("[\uffa1-\uffdc]"),
    "\u180e": re.compile("[\u1820-\u18aa]"),
}
_VARIANTS = re.compile(f"[{_VARIANT}]")
_BLACK_FLAG, _EMOJI_STYLE = "\U0001f3f4", "\ufe0f"


def may_hold_invisible(source: str, points: NDArray[Any] | None = None) -> bool:
    """Whether a text, of which the characters may be given, holds one of these or an entity for one."""
    if not source.isascii():
        if points is None:
            points = np.frombuffer(source.encode("utf-32-le", "surrogatepass"), dtype="<u4")
        if _ONE.search("".join(map(chr, set(points[points > 0x7F].tolist())))):
            return True
    if "&" not in source:
        return False
    found = (_REFERENCE.match(entity) for entity in set(_ANY_REFERENCE.findall(source)))
    return any(m is not None and only_invisible(m[0]) for m in found)


def only_invisible(word: str) -> bool:
    """Whether a word of the source stands for nothing but such characters."""
    return bool(word) and all(map(_ONE.match, unescape(word)))


def is_invisible(character: str) -> bool:
    """Whether a character is one of those that may be dropped."""
    return _ONE.match(character) is not None


def drop_invisible(
    text: str, begin: int = 0, *, entities: bool = True, follows: bool = False
) -> tuple[str, list[Dropped], bool]:
    """Take characters that nobody sees out of a stretch of the source.

    Args:
        text: the stretch.
        begin: where it stands in the source.
        entities: whether entities are read; if so, the result is escaped where anything was dropped.
        follows: whether the text before it ended in such a character: then none stays at the beginning.

    Returns:
        The text, what was dropped (ascending ranges of the source with reasons), and whether the text ends
        in such a character, white space aside.
    """
    runs = _runs(text, entities)
    if not runs:
        return text, [], follows and (not text or text.isspace())
    dropped: list[Dropped] = []
    out: list[str] = []
    read = unescape if entities else str
    end = 0
    for run in runs:
        out.append(read(text[end : run[0][0]]))
        shown = _shorten(text, run, begin, follows and run[0][0] == 0, dropped)
        out.append(shown)
        end = run[-1][1]
    out.append(read(text[end:]))
    whole = "".join(out)
    last = whole.rstrip()[-1:]
    ends = is_invisible(last) if last else follows
    if not dropped:
        return text, [], ends
    return escape(whole, quote=False) if entities else whole, dropped, ends


def _runs(text: str, entities: bool) -> list[list[tuple[int, int, str]]]:
    """Stretches of such characters as (start, end, what it stands for), neighbours together."""
    runs: list[list[tuple[int, int, str]]] = []
    end = -1
    for m in _PART.finditer(text):
        value = m[0]
        if value[0] == "&":
            value = unescape(value) if entities else ""
            if not only_invisible(value):
                continue
        if m.start() != end:
            runs.append([])
        end = m.end()
        runs[-1].append((m.start(), end, value))
    return runs


def _shorten(
    text: str, run: list[tuple[int, int, str]], begin: int, follows: bool, dropped: list[Dropped]
) -> str:
    """Decide what stays of a run; the rest goes to ``dropped``."""
    value = "".join(part[2] for part in run) if len(run) > 1 else run[0][2]
    kept: tuple[tuple[int, int], ...] = ()
    if not follows:
        choose = _kept if len(value) < 16 else _kept.__wrapped__
        kept = choose(value, _before(text, run[0][0]), _behind(text, run[-1][1]))
        if len(run) == 1 and kept == ((0, len(value)),):
            return value
    at = 0
    for start, end, part in run:
        literal = end - start == len(part)
        a = 0
        for k, stop in [*kept, (at + len(part), at + len(part))]:
            b = min(max(k - at, a), len(part))
            for m in _REASON.finditer(part, a, b):
                reason = BIDI if m["bidi"] else TAGS if m["tag"] else ZERO_WIDTH
                gone = (start + m.start(), start + m.end()) if literal else (start, end)
                _add(dropped, begin + gone[0], begin + gone[1], reason)
            a = min(max(stop - at, a), len(part))
        at += len(part)
    return "".join(value[a:b] for a, b in kept)


def _add(dropped: list[Dropped], start: int, end: int, reason: str) -> None:
    if dropped and dropped[-1][1] == start and dropped[-1][2] == reason:
        start = dropped.pop()[0]
    dropped.append((start, end, reason))


@lru_cache(maxsize=4096)
def _kept(run: str, before: str, behind: str) -> tuple[tuple[int, int], ...]:
    """Which characters of a run stay between two visible characters ("" where there is none)."""
    if before == _BLACK_FLAG and (flag := _FLAG.match(run)):
        return (flag.span(),)
    if run == "\u115f\u1160" and _LETTERS[run[0]].match(behind):
        return ((0, 2),)
    kept: list[tuple[int, int]] = []
    shown = bool(before) and not before.isspace()
    styled = shown and _VARIANTS.match(run) is not None
    if styled:
        kept.append((0, 1))
    allowed = ""
    if _joins(before) or _joins(behind):
        allowed += "\u200c\u200d"
    elif (_emoji(before) or (styled and run[0] == _EMOJI_STYLE)) and _emoji(behind):
        allowed += "\u200d"
    if _UNSPACED.match(before) and _UNSPACED.match(behind):
        allowed += "\u200b"
    for filler, letters in _LETTERS.items():
        if filler in run and (
            letters.match(behind) if filler != "\u1160" else letters.match(before + behind)
        ):
            allowed += filler
    if shown or (behind and not behind.isspace()):
        allowed += _MARKS
    places = [p for c in allowed if (p := run.find(c, len(kept))) >= 0]
    if places:
        kept.append((min(places), min(places) + 1))
    return tuple(kept)


def _joins(character: str) -> bool:
    return _JOINS.match(character) is not None and unicodedata.category(character)[0] in "LM"


def _emoji(character: str) -> bool:
    return bool(character) and unicodedata.category(character) in ("So", "Sk", "Sm")


def _before(text: str, at: int) -> str:
    """The character that ends at a place, an entity read as what it stands for."""
    if at and text[at - 1] == ";" and (entity := _BEFORE.search(text, max(0, at - 33), at)):
        return unescape(entity[0])[-1:]
    return text[at - 1 : at]


def _behind(text: str, at: int) -> str:
    if text[at : at + 1] == "&" and (entity := _BEHIND.match(text, at)):
        return unescape(entity[0])[:1]
    return text[at : at + 1]
