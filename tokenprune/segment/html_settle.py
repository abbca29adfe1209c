"""What a cleaned page needs once it is whole: no tags inside words, plain signs, one list of what went."""

from __future__ import annotations

from collections.abc import Sequence

from tokenprune.segment.entities import unescape
from tokenprune.segment.html_page import CLOSE, OPEN, TEXT, CleanPage, escape_text
from tokenprune.segment.html_tags import APART
from tokenprune.segment.invisible import Dropped

SIGNS = ("&lt;", "&amp;")


def settle_signs(page: CleanPage, dangling: Sequence[int]) -> None:
    """Write "<" and "&" at the end of a text plain if the next text does not make them read as markup.

    Args:
        page: changed in place.
        dangling: events that are texts which end in one of ``SIGNS``.
    """
    for i in dangling:
        k = i + 1
        while k < len(page.kind) and page.kind[k] in (OPEN, CLOSE) and not page.alive[page.node[k]]:
            k += 1
        if k < len(page.kind) and i < len(page.kind) and page.kind[k] == TEXT and page.kind[i] == TEXT:
            sign = next((s for s in SIGNS if page.text[i].endswith(s)), "")
            plain = f"{unescape(sign)}{page.text[k][:1]} "
            if sign and escape_text(plain) == plain:
                page.text[i] = page.text[i][: -len(sign)] + plain[0]


def unwrap(page: CleanPage, mixed: Sequence[int]) -> set[int]:
    """Give up inline elements that hold blocks and begin or end inside a word; return their tags' events.

    Such an element cannot be part of a line, and a word cannot be part of two blocks.

    Args:
        page: whose elements are marked; the events are the caller's to take out.
        mixed: inline elements that hold a block.
    """
    events = list(enumerate(zip(page.kind, page.node, strict=True)))
    opened, closed = ({n: i for i, (k, n) in events if k == kind} for kind in (OPEN, CLOSE))
    gone: set[int] = set()
    around = set(mixed)
    for node in mixed:
        while (node := page.parent[node]) >= 0 and page.tag[node] not in APART:
            around.add(node)
    for node in around:
        ends = opened[node], closed[node]
        if any(_in_word(page, i) for i in ends):
            page.alive[node] = False
            gone.update(ends)
    return gone


def _in_word(page: CleanPage, i: int) -> bool:
    """Whether the tag of an event stands between two characters of a word."""
    n = len(page.kind)
    for step in (-1, 1):
        k = i + step
        while 0 <= k < n and page.kind[k] in (OPEN, CLOSE) and page.tag[page.node[k]] not in APART:
            k += step
        if not 0 <= k < n or page.kind[k] != TEXT or page.text[k][min(step, 0)].isspace():
            return False
    return True


def merged(hidden: Sequence[Dropped], other: Sequence[Dropped]) -> list[Dropped]:
    """Merge two ascending lists of ranges; what lies inside a hidden range is part of it."""
    found: list[Dropped] = []
    end = 0
    for start, stop, reason in sorted([*hidden, *other], key=lambda d: (d[0], -d[1])):
        if stop > end:
            found.append((max(start, end), stop, reason))
            end = stop
    return found
