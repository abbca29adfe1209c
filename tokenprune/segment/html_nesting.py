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
from tokenprune.points import NUL
from tokenprune.segment.entities import unescape
from tokenprune.segment.html_open import SPECIAL
from tokenprune.segment.html_repair import TERMS, Events
from tokenprune.segment.html_source import CLOSES, ENDED, KNOWN, NO_TAG, OPENS, Source
from tokenprune.segment.html_tags import BLOCKS, INLINE, UNWRAPPED_BLOCKS, VOID
from tokenprune.segment.html_tree import moved_down, tree

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
    codes = page.codes
    used = np.flatnonzero(np.bincount(codes))
    if page.verbatim or page.cut >= 0 or "\r" in page.source or not _ODD.isdisjoint(used.tolist()):
        return None
    if not all(map(_SIMPLE_NAME.fullmatch, page.names[len(KNOWN) :])):
        return None
    nesting = _nesting(codes)
    if nesting is None or not _stands_in_body(page, nesting.close):
        return None
    kinds = codes & 3
    tags = np.flatnonzero(
        ((kinds == OPENS) | (kinds == ENDED)) & (codes != _HTML) & (codes != _HEAD) & (codes != _BODY)
    )
    over = nesting.parent[tags]
    size = 4 * len(page.names)
    around = np.where(over >= 0, codes[over], _BODY) >> 2
    for pair in np.flatnonzero(np.bincount(around * size + codes[tags])).tolist():
        outer, name = page.names[pair // size], page.names[pair % size >> 2]
        if not _stands_in(outer, name, ended=pair & 3 == ENDED):
            return None
        nesting.pairs.add((outer, name))
    joined = _without_breaks(page)
    if "&" in joined:
        joined = unescape(joined)
    if _BODY in used:
        return Events(codes, np.arange(len(codes)), joined), nesting
    return _within_body(codes, joined), nesting


def _within_body(codes: IntArray, joined: str) -> Events:
    """Add the tags that libxml2 puts around a part of a page."""
    return Events(
        np.concatenate(([NO_TAG, _HTML, _BODY], codes[1:], [_BODY + CLOSES, _HTML + CLOSES])),
        np.concatenate(([0, -1, -1], np.arange(1, len(codes)), [-1, -1])),
        joined.replace(NUL, NUL * 3, 1) + NUL * 2,
        implied=2,
    )


def _without_breaks(page: Source) -> str:
    """The texts, joined; white space behind a comment or the like is part of the text before that."""
    breaks = np.flatnonzero((page.codes[1:] & 3 == NO_TAG) & ~page.has_words[1:]) + 1
    texts = page.text
    if not any(texts[k] for k in breaks.tolist()):
        return page.joined
    texts = texts.copy()
    parts: dict[int, list[str]] = {}
    owner: dict[int, int] = {}  # tag that is none, without words -> the tag in whose text it stands
    for k in breaks.tolist():
        before = owner[k] = owner.get(k - 1, k - 1)
        parts.setdefault(before, [texts[before]]).append(texts[k])
        texts[k] = ""
    for k, found in parts.items():
        texts[k] = "".join(found)
    return NUL.join(texts)


def _nesting(codes: IntArray) -> Nesting | None:
    """Find the tag around each tag and the end tag of each; None if they do not nest."""
    steps = _STEPS[codes & 3]
    depth = np.cumsum(steps)
    if depth[-1] != 0 or depth.min() < 0 or depth.max() > _DEEPEST:
        return None
    found = tree(steps)
    if not len(found.opens) or not np.array_equal(codes[found.opens] >> 2, codes[found.close] >> 2):
        return None
    close = np.arange(len(codes))
    close[found.opens] = found.close
    opens = np.append(found.opens, -1)  # of "none"
    inside = np.where(steps > 0, moved_down(found.inside, -1), found.inside)
    return Nesting(opens[inside], close, set())


def _stands_in_body(page: Source, close: IntArray) -> bool:
    """Whether words, and tags that are shown, stand in the body; a part of a page must begin so."""
    codes, words = page.codes, page.has_words
    kinds = codes & 3
    tags = (kinds == OPENS) | (kinds == ENDED)
    first = int(np.argmax(tags))
    if not first or words[:first].any():
        return False
    bodies, heads, pages = (np.flatnonzero(codes == code).tolist() for code in (_BODY, _HEAD, _HTML))
    if not bodies:  # a part of a page
        name = page.names[codes[first] >> 2]
        return not pages and not heads and name not in _IN_HEAD | {"noscript"}
    if len(bodies) > 1 or len(heads) > 1 or len(pages) != 1:
        return False
    html, body = pages[0], bodies[0]
    head = heads[0] if heads else -1
    end, stop = int(close[body]), int(close[head]) if head >= 0 else -1
    if html != first or not html < body < end or not (head < 0 or html < head < stop < body):
        return False
    if words[end:].any() or tags[end:].any():
        return False
    inside = 0  # depth in an element of the head
    for k, (code, wordy) in enumerate(zip(codes[:body].tolist(), words[:body].tolist(), strict=True)):
        kind, name = code & 3, page.names[code >> 2]
        if k in (html, head, stop):
            inside = 0
        elif kind in (OPENS, ENDED):
            if not head < k < stop or name not in _IN_HEAD:
                return False
            inside += kind == OPENS
        elif kind == CLOSES:
            inside -= 1
        if inside <= 0 and wordy:
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
    if name in TERMS and (around in TERMS or around not in SPECIAL):
        return False  # it may end a term, which libxml2 is told
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
