"""Where HTML units stand in their source, and what stands above them."""

from __future__ import annotations

import re

import numpy as np

from tokenprune.arrays import IntArray
from tokenprune.units import GONE

_CONTEXT = 300  # characters of the headings above a block that scorers read
_WORD = re.compile(r"[^ \t\n\r\f]+")


def contexts(texts: list[str], lead: list[int]) -> list[str]:
    """Headings above each unit, cut to a bounded length from the left: the nearest ones matter most."""
    context: list[str] = []
    for up in lead:
        if up < 0:
            context.append("")
        else:
            joined = f"{context[up]} {texts[up]}" if context[up] else texts[up]
            context.append(joined[-_CONTEXT:])
    return context


def source_offsets(source: str, text: str, offsets: list[int]) -> list[int]:
    """Map offsets in a folded, escaped text to its source: words stand in the same order in both."""
    source_words = [m.start() for m in _WORD.finditer(source)]
    text_words = [m.start() for m in _WORD.finditer(text)]
    found = np.searchsorted(text_words, offsets, side="right") - 1
    out: list[int] = []
    for offset, word in zip(offsets, found.tolist(), strict=True):
        if word < 0 or word >= len(source_words):
            out.append(0 if word < 0 else len(source))
            continue
        limit = source_words[word + 1] if word + 1 < len(source_words) else len(source)
        out.append(min(source_words[word] + offset - text_words[word], limit))
    return out


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
