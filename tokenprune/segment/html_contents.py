"""Which units of a page only link to places of it: the entries of its table of contents."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import unescape

import numpy as np

from tokenprune.arrays import BoolArray
from tokenprune.segment.html_names import codes_among
from tokenprune.segment.html_source import CLOSES, KNOWN, OPENS, Source
from tokenprune.segment.html_tags import attributes
from tokenprune.segment.word_counts import word_count
from tokenprune.units import Pieces

_LONG = 20  # words: the name of a place has fewer, a card that is a link as a whole has more
_WORD = re.compile(r"\w")
_OPEN = 4 * KNOWN.index("a") + OPENS
_CLOSE = 4 * KNOWN.index("a") + CLOSES


def entries_of_contents(source: Source, pieces: Pieces, texts: Sequence[str]) -> BoolArray | None:
    """Which units say nothing but links to places of their page (``href="#a"``), each of fewer than 20 words.

    Args:
        source: the page.
        pieces: of the page, cleaned.
        texts: of the n units.

    Returns:
        bool [n]; None where the page has no such link.
    """
    links = [k for k in np.flatnonzero(source.codes == _OPEN).tolist() if _points(source, k)]
    if not links or pieces.tag is None:
        return None
    begins = source.afters[links]
    edges = np.append(source.begins[codes_among(source.codes, (_OPEN, _CLOSE))], len(source.source))
    ends = edges[np.searchsorted(edges, begins)]  # a link ends where another one begins
    at = np.flatnonzero(~pieces.tag & (pieces.owner >= 0))
    place, owner = pieces.src_start[at], pieces.owner[at]
    link = np.searchsorted(begins, place, side="right") - 1
    linked = (link >= 0) & (place < ends[link])
    entries = np.zeros(len(texts), dtype=bool)
    entries[owner[linked]] = True
    # Only where a unit has a link it matters whether other words stand beside it.
    beside = at[~linked & entries[owner]].tolist()
    entries[[int(pieces.owner[p]) for p in beside if _WORD.search(pieces.text[p])]] = False
    ways = np.unique(np.stack((owner[linked], link[linked])), axis=1)
    often = np.bincount(ways[0], minlength=len(texts))
    for unit in np.flatnonzero(entries).tolist():
        entries[unit] = word_count(texts[unit]) < _LONG * often[unit]
    return entries


def _points(source: Source, k: int) -> bool:
    """Whether a tag links to a place of its page."""
    if "#" not in source.tag[k]:
        return False
    href = unescape(attributes(source.attributes(k)).get("href", "")).strip()
    return len(href) > 1 and href[0] == "#"
