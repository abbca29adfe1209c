"""Whether the tags of a page nest, so that libxml2 has nothing to repair.

Most pages are written by programs: each end tag ends the element that was opened last. Then libxml2 reports
the tags just as they stand, and need not be asked about the page: only, once per pair of names, whether one
element may stand in the other (`_stands_in`).
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, NamedTuple, cast

import numpy as np
from lxml import etree

from tokenprune.arrays import IntArray
from tokenprune.segment.entities import unescape
from tokenprune.segment.html_repair import Events
from tokenprune.segment.html_source import CLOSES, ENDED, KNOWN, NO_TAG, OPENS, Source
from tokenprune.segment.html_tags import BLOCKS, INLINE, UNWRAPPED_BLOCKS, VOID

_NUL = "\0"
_DEEPEST = 200  # libxml2 reads no page that is nested much deeper
_SIMPLE_NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")
_STEPS = np.asarray((1, -1, 0, 0), dtype=np.int64)  # of the depth, by kind
_HTML, _HEAD, _BODY = (4 * KNOWN.index(name) + OPENS for name in ("html", "head", "body"))
_IN_HEAD = frozenset(("title", "meta", "link", "base"))


def _odd(place: int, kind: int) -> bool:
    """Whether libxml2 reads a tag otherwise than it stands."""
    name = KNOWN[place]
    if name in ("xmp", "plaintext", "frameset"):
        return True
    if kind == CLOSES:
        return name in VOID
    return (
        kind == ENDED and name not in VOID and name in BLOCKS | INLINE | UNWRAPPED_BLOCKS | {"html", "head"}
    )


_ODD = frozenset(
    4 * p + kind for p in range(1, len(KNOWN)) for kind in (OPENS, CLOSES, ENDED) if _odd(p, kind)
)


class Nesting(NamedTuple):
    """Where the elements of a page lie whose tags nest.

    Attributes:
        parent: int64 [k], the tag around each tag and, behind an end tag, around its text; -1 at the top.
        close: int64 [k], the end tag of each start tag; of others, themselves.
        pairs: names of elements and of those that stand right in them, each pair once.
    """

    parent: IntArray
    close: IntArray
    pairs: set[tuple[str, str]]


def nested(page: Source) -> tuple[Events, Nesting] | None:
    """Return the events of a page whose tags nest; None for one that libxml2 should see."""
    if page.verbatim or page.cut >= 0 or "\r" in page.source or not _ODD.isdisjoint(page.code):
        return None
    if not all(map(_SIMPLE_NAME.fullmatch, page.names[len(KNOWN) :])):
        return None
    found = _places(page.codes)
    if found is None or not _stands_in_body(page, found[1]):
        return None
    parent, close = found
    kinds = page.codes & 3
    tags = np.flatnonzero(((kinds == OPENS) | (kinds == ENDED)) & ~np.isin(page.codes, (_HTML, _HEAD, _BODY)))
    over = parent[tags]
    size = 4 * len(page.names)
    around = np.where(over >= 0, page.codes[over], _BODY) >> 2
    pairs: set[tuple[str, str]] = set()
    for pair in np.flatnonzero(np.bincount(around * size + page.codes[tags])).tolist():
        outer, name = page.names[pair // size], page.names[pair % size >> 2]
        if not _stands_in(outer, name, ended=pair & 3 == ENDED):
            return None
        pairs.add((outer, name))
    texts = _without_breaks(page)
    joined = _NUL.join(texts)
    if "&" in joined:
        texts = unescape(joined).split(_NUL)
    events = Events(page.code, list(range(len(page.code))), texts)
    return events if _BODY in page.code else _within_body(events), Nesting(parent, close, pairs)


def _within_body(events: Events) -> Events:
    """Add the tags that libxml2 puts around a part of a page."""
    return Events(
        [NO_TAG, _HTML, _BODY, *events.code[1:], _BODY + CLOSES, _HTML + CLOSES],
        [0, -1, -1, *events.mark[1:], -1, -1],
        [events.text[0], "", "", *events.text[1:], "", ""],
        implied=2,
    )


def _without_breaks(page: Source) -> list[str]:
    """The texts; white space behind a comment or the like is part of the text before that."""
    texts, words = page.text, page.words
    owner: dict[int, int] = {}  # tag that is none, without words -> the tag in whose text it stands
    for k in np.flatnonzero(page.codes[1:] & 3 == NO_TAG).tolist():
        if not words[k + 1]:
            owner[k + 1] = owner.get(k, k)
    if not any(texts[k] for k in owner):
        return texts
    texts = texts.copy()
    parts: dict[int, list[str]] = {}
    for k, before in owner.items():
        parts.setdefault(before, [texts[before]]).append(texts[k])
        texts[k] = ""
    for k, found in parts.items():
        texts[k] = "".join(found)
    return texts


def _places(codes: IntArray) -> tuple[IntArray, IntArray] | None:
    """Find the tag around each tag and the end tag of each, as in `Nesting`; None if they do not nest."""
    n = len(codes)
    steps = _STEPS[codes & 3]
    depth = np.cumsum(steps)
    if depth[-1] != 0 or depth.min() < 0 or depth.max() > _DEEPEST:
        return None
    level = depth + (steps < 0)  # of the element that a tag opens or ends
    tags = np.flatnonzero(steps)
    order = tags[np.argsort(level[tags].astype(np.int16), kind="stable")]  # an opening, its end, and so on
    opens, ends = order[::2], order[1::2]
    if not len(opens) or not np.array_equal(codes[opens] >> 2, codes[ends] >> 2):
        return None
    close = np.arange(n)
    close[opens] = ends
    above = np.where(steps > 0, level - 1, depth)
    found = np.searchsorted(level[opens] * n + opens, above * n + np.arange(n)) - 1
    return np.where(above > 0, opens[found], -1), close


def _stands_in_body(page: Source, close: IntArray) -> bool:
    """Whether words, and tags that are shown, stand in the body; a part of a page must begin so."""
    codes, words = page.code, page.words
    kinds = page.codes & 3
    first = int(np.argmax((kinds == OPENS) | (kinds == ENDED)))
    if not first or any(words[:first]):
        return False
    if _BODY not in codes:  # a part of a page
        name = page.names[codes[first] >> 2]
        return _HTML not in codes and _HEAD not in codes and name not in _IN_HEAD | {"noscript"}
    if codes.count(_BODY) > 1 or codes.count(_HEAD) > 1 or codes.count(_HTML) != 1:
        return False
    html, body = codes.index(_HTML), codes.index(_BODY)
    head = codes.index(_HEAD) if _HEAD in codes else -1
    end, stop = int(close[body]), int(close[head]) if head >= 0 else -1
    if html != first or not html < body < end or not (head < 0 or html < head < stop < body):
        return False
    if any(words[end:]) or any(kind in (OPENS, ENDED) for kind in kinds[end:].tolist()):
        return False
    inside = 0  # depth in an element of the head
    for k in range(body):
        kind, name = codes[k] & 3, page.names[codes[k] >> 2]
        if k in (html, head, stop):
            inside = 0
        elif kind in (OPENS, ENDED):
            if not head < k < stop or name not in _IN_HEAD:
                return False
            inside += kind == OPENS
        elif kind == CLOSES:
            inside -= 1
        if inside <= 0 and words[k]:
            return False
    return True


class _Order:
    """Target of lxml's parser that keeps the order of tags."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def start(self, tag: str, attrs: Any) -> None:
        self.seen.append(tag)

    def end(self, tag: str) -> None:
        self.seen.append("/" + tag)

    def data(self, text: str) -> None:
        self.seen.append(text)

    def close(self) -> None:
        pass


@lru_cache(maxsize=1 << 14)
def _stands_in(around: str, name: str, *, ended: bool) -> bool:
    """Ask libxml2 whether an element may stand right in another one, and whether it is ended at once."""
    if around == "head":
        return True  # `_outside` has seen to that
    order = _Order()
    parser = etree.HTMLParser(target=cast(Any, order))
    slash = " /" if ended else ""
    before, after = ("", "") if around == "body" else (f"<{around}>", f"</{around}>")
    close = "" if ended else f"</{name}>"
    parser.feed(f"<html><body>{before}<{name}{slash}>x{close}{after}</body></html>")
    parser.close()
    own = [name, f"/{name}", "x"] if ended else [name, "x", f"/{name}"]
    if around != "body":
        own = [around, *own, f"/{around}"]
    return order.seen == ["html", "body", *own, "/body", "/html"]
