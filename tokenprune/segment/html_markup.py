"""What cleaning takes away and scorers of whole pages need: links, attributes and where elements lie.

Looked up where the cleaned page comes from, and only when asked for.
"""

from __future__ import annotations

import numpy as np

from tokenprune.arrays import BoolArray, IntArray
from tokenprune.markup import Markup
from tokenprune.segment.html_clean import Cleaned
from tokenprune.segment.html_page import BREAK, CLOSE, OPEN, TEXT, CleanPage
from tokenprune.segment.html_source import CLOSES, ENDED, OPENS
from tokenprune.segment.html_tags import VOID, is_inline
from tokenprune.segment.html_tree import moved_down, tree


def markup(cleaned: Cleaned, event: IntArray, owner: IntArray, text: list[str]) -> Markup:
    """Lay what cleaning took away out by unit.

    Args:
        cleaned: the page and where it comes from.
        event: int64 [p], the event of the cleaned page that each piece is (part of).
        owner: int64 [p], unit of each piece; negative for wrappers.
        text: the pieces.
    """
    page, rows = cleaned.page, cleaned.rows
    line_of, block = _lines(page)
    words = owner >= 0
    words[words] = page.kinds[event[words]] == TEXT
    blank = np.fromiter(map(str.isspace, text), dtype=bool, count=len(text))
    at = np.flatnonzero(words & ~blank)
    spaced = np.diff(np.cumsum(blank)[at], prepend=0) > 0  # white space stands before it
    events = event[at]
    lines = line_of[events]
    fresh = np.diff(lines, prepend=-1) > 0
    starts, parent, inside = _inline(cleaned)
    return Markup(
        tag=page.tag,
        parent=page.parent,
        attributes=_attributes(cleaned, cleaned.opens),
        inline_tag=[cleaned.source.names[place] for place in rows.place[starts].tolist()],
        inline_parent=parent.tolist(),
        inline_attributes=_attributes(cleaned, starts),
        span_unit=owner[at],
        span_line=np.cumsum(fresh) - 1,
        span_node=block[events],
        span_inline=inside[cleaned.row[events]],
        span_text=[
            f" {text[p]}" if s else text[p] for p, s in zip(at.tolist(), spaced.tolist(), strict=True)
        ],
    )


def _attributes(cleaned: Cleaned, rows: IntArray) -> list[str]:
    source = cleaned.source
    return [source.attributes(mark) if mark >= 0 else "" for mark in cleaned.rows.mark[rows].tolist()]


def _inline(cleaned: Cleaned) -> tuple[IntArray, IntArray, IntArray]:
    """Elements whose tags are not written: rows that start them, parents, and the innermost of each row."""
    rows = cleaned.rows
    void = np.fromiter(map(VOID.__contains__, cleaned.source.names), dtype=bool)[rows.place]
    left = ~void
    left[cleaned.opens] = False
    whole = tree((rows.kind == OPENS) * 1 - (rows.kind == CLOSES))
    chosen = left[whole.opens]
    steps = np.zeros(len(left), dtype=np.int64)
    steps[whole.opens[chosen]], steps[whole.close[chosen]] = 1, -1
    starts = np.flatnonzero(left & ((rows.kind == OPENS) | (rows.kind == ENDED)))
    found = tree(steps)
    number = np.append(np.searchsorted(starts, found.opens), -1)
    inside = number[found.inside]
    return starts, moved_down(inside, -1)[starts], inside


def _lines(page: CleanPage) -> tuple[IntArray, IntArray]:
    """Number the lines; return line and block element of each event, int64 [e]."""
    inline: BoolArray = np.fromiter(map(is_inline, page.tag), dtype=bool, count=len(page.tag))
    node, kind = page.nodes, page.kinds
    edge = kind == BREAK
    tags = (kind == OPEN) | (kind == CLOSE)
    edge[tags] = ~inline[node[tags]]
    block = np.arange(len(page.tag), dtype=np.int64)
    parent = page.parent
    for e in np.flatnonzero(inline).tolist():  # parents come first, so theirs are settled
        block[e] = block[parent[e]] if parent[e] >= 0 else -1
    around = np.where(node >= 0, block[node], -1) if len(block) else node
    return np.cumsum(edge), around


def scoped(lead: IntArray, found: Markup) -> IntArray:
    """Let headings lead only what lies in the same part of the page, and the title nothing.

    A scorer of whole pages judges headings itself; one in the navigation must not come along with the text.

    Args:
        lead: int64 [n], the unit that leads each unit, -1 for none.
        found: markup of the page.

    Returns:
        int64 [n]; a lead that reaches out of its part gives way to the one above it, in the end to -1.
    """
    parent = [0, *(p + 1 for p in found.parent)]  # elements are shifted by one: 0 is the page
    last = list(range(len(parent)))  # the last element in each: they are numbered as they open
    for e in range(len(parent) - 1, 0, -1):
        last[parent[e]] = max(last[parent[e]], last[e])
    node = np.zeros(len(lead), dtype=np.int64)
    node[found.span_unit[::-1]] = found.span_node[::-1] + 1  # of the first span of each unit
    out = lead.copy()
    for unit in np.flatnonzero(lead >= 0).tolist():
        up = int(lead[unit])
        while up >= 0:
            head = int(node[up])
            scope = parent[head]
            title = head > 0 and found.tag[head - 1] == "title"
            if not title and scope <= node[unit] <= last[scope]:
                break
            up = int(lead[up])
        out[unit] = up
    return out
