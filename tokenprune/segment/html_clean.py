"""Lossless cleaning of a page: HtmlRAG (arXiv 2411.02959, section 3.1), kept true to every visible word.

Out go scripts, styles, comments, attributes, elements without text, presentational inline tags, hidden
elements and wrappers that wrap a single element. What stays is a flat list of tags and texts in source order.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from tokenprune.arrays import IntArray
from tokenprune.segment.html_attributes import kept_attributes
from tokenprune.segment.html_concealed import Concealer
from tokenprune.segment.html_nesting import nested
from tokenprune.segment.html_output import Output
from tokenprune.segment.html_page import TEXT, CleanPage, word_count
from tokenprune.segment.html_reach import Reach
from tokenprune.segment.html_repair import Events, repaired
from tokenprune.segment.html_rows import Rows, keep_tags, leave_out, nest, placed
from tokenprune.segment.html_settle import merged, settle_signs, unwrap
from tokenprune.segment.html_sheets import Rule, read_sheet
from tokenprune.segment.html_source import Source, scan
from tokenprune.segment.html_texts import Texts, read_texts
from tokenprune.segment.html_unseen import NOTHING, Ranges, unseen
from tokenprune.tokens import sanitize


@dataclass
class Cleaned:
    """A cleaned page and where it comes from.

    Attributes:
        page: the result.
        source: the page as it is written.
        rows: what became of its tags.
        opens: int64 [m], the row that opens each element of the page.
        row: int64 [e], the row that each event of the page comes from.
        ruled: words that each rule of a style sheet hides.
    """

    page: CleanPage
    source: Source
    rows: Rows
    opens: IntArray
    row: IntArray
    ruled: Counter[Rule]

    def overdone(self) -> set[Rule]:
        """Rules of style sheets to ignore: together the others hide no more than half of the words."""
        if not self.ruled:
            return set()
        hidden = self.ruled.total()
        page = self.page
        total = hidden + sum(word_count(t) for k, t in zip(page.kind, page.text, strict=True) if k == TEXT)
        gone: set[Rule] = set()
        for rule, words in self.ruled.most_common():
            if 2 * hidden <= total:
                break
            gone.add(rule)
            hidden -= words
        return gone


def _kept(page: Source, events: Events, keep: Collection[str], drop_hidden: bool) -> dict[int, str]:
    """Attributes that stay, by tag of the source."""
    found: dict[int, str] = {}
    known: dict[str, str] = {}
    for mark in events.mark if keep else ():
        if mark >= 0 and (written := page.attributes(mark)):
            if written not in known:
                known[written] = kept_attributes(written, keep, drop_hidden=drop_hidden)
            if known[written]:
                found[mark] = known[written]
    return found


def _write(
    source: Source, events: Events, texts: Texts, kept: dict[int, str], reach: Reach, ranges: Ranges | None
) -> Cleaned:
    """Clean a page of which it is known what is not seen."""
    rows = placed(source, events)
    concealed = Concealer(source, events, rows, reach, ranges, kept)
    concealed.run(texts.words)
    keep_tags(rows, source.names, kept)
    if concealed.tags.any():
        leave_out(rows, concealed.tags)
    for at, act in concealed.void.items():
        rows.act[at] = act
    found = nest(rows, source.names)
    output = Output(
        rows, found, source.names, texts, np.append(concealed.texts, False), kept, source.attributes
    )
    page = output.write()
    if concealed.veiled and output.white:
        concealed.run(output.written_texts())  # white space in code counts as something shown
    dangling, row = output.dangling, output.row
    if output.mixed and (gone := unwrap(page, output.mixed)):
        page, lost = page.without(gone), sorted(gone)
        dangling = [i - bisect_left(lost, i) for i in dangling]
        row = np.delete(row, lost)
    settle_signs(page, dangling)
    page.strip()
    page.dropped = merged(concealed.dropped, source.dropped)
    return Cleaned(page, source, rows, found.opens, row, concealed.ruled)


def read(source: str, keep_attributes: Collection[str], drop_hidden: bool) -> Cleaned:
    """Clean a page and say where all of it comes from; any text is accepted.

    Once more without the rules of style sheets that turn out to hide too much (see `Cleaned.overdone`).
    """
    page = scan(sanitize(source), drop_hidden=drop_hidden)
    found = nested(page)
    events, nesting = found or (repaired(page), None)
    texts = read_texts(events.joined)
    kept = _kept(page, events, frozenset(a.lower() for a in keep_attributes), drop_hidden)
    sheet = read_sheet("\n".join(page.styles)) if drop_hidden and page.styles else None
    for left in (2, 1, 0):
        reach, ranges = unseen(page, sheet, nesting) if drop_hidden else (NOTHING, [])
        made = _write(page, events, texts, kept, reach, ranges)
        gone = made.overdone()
        if not gone or not sheet:
            break
        sheet = sheet.without(gone) if left > 1 else None
    return made


def clean(source: str, keep_attributes: Collection[str] = (), *, drop_hidden: bool = True) -> CleanPage:
    """Clean a page.

    Args:
        source: any text; it need not be well formed, nor HTML.
        keep_attributes: names of attributes that stay (``href``, ``alt``, ``colspan``, ...).
        drop_hidden: whether what people do not see goes; ``html_hidden`` lists what that is.
    """
    return read(source, keep_attributes, drop_hidden).page
