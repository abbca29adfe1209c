"""Lossless cleaning of a page: HtmlRAG (arXiv 2411.02959, section 3.1), kept true to every visible word.

Out go scripts, styles, comments, attributes, elements without text, presentational inline tags, hidden
elements and wrappers that wrap a single element. What stays is a flat list of tags and texts in source order;
cells that span columns or rows have empty ones beside or below them instead.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from tokenprune.arrays import IntArray
from tokenprune.segment.html_attributes import NUMBERS, kept_attributes, numbers_of
from tokenprune.segment.html_concealed import Concealer
from tokenprune.segment.html_hidden import UNDONE
from tokenprune.segment.html_math import write_math
from tokenprune.segment.html_names import codes_among
from tokenprune.segment.html_nesting import nested
from tokenprune.segment.html_output import Output
from tokenprune.segment.html_page import TEXT, CleanPage
from tokenprune.segment.html_reach import Reach
from tokenprune.segment.html_repair import Events, repaired
from tokenprune.segment.html_rows import Rows, keep_tags, leave_out, nest, placed
from tokenprune.segment.html_settle import merged, settle_signs, unwrap
from tokenprune.segment.html_sheets import Rule, read_sheet
from tokenprune.segment.html_source import KNOWN, OPENS, Source, scan
from tokenprune.segment.html_spans import fill_columns
from tokenprune.segment.html_texts import Texts, read_texts
from tokenprune.segment.html_unseen import NOTHING, Ranges, unseen
from tokenprune.segment.word_counts import word_count
from tokenprune.tokens import sanitize

_LISTS = frozenset(4 * KNOWN.index(name) + OPENS for name in ("ol", "li"))
_NOT_BELIEVED = (
    "more than half of the words are {why}: as on pages that fade in by script, they are taken for visible"
)


@dataclass
class Cleaned:
    """A cleaned page and where it comes from.

    Attributes:
        page: the result.
        source: the page as it is written.
        rows: what became of its tags.
        opens: int64 [m], the row that opens each element of the page.
        row: int64 [e], the row that each event of the page comes from.
        doubted: words that are hidden by each rule of a style sheet, and for each reason that scripts undo.
        times: how many elements are hidden for each such reason.
        notes: what the receipt should say.
    """

    page: CleanPage
    source: Source
    rows: Rows
    opens: IntArray
    row: IntArray
    doubted: Counter[Rule | str]
    times: Counter[str]
    notes: tuple[str, ...] = ()

    def overdone(self) -> set[Rule | str]:
        """Rules and reasons to ignore: together the others hide no more than half of the words.

        A single element that hides much for one of the reasons is no page that fades in.
        """
        if not self.doubted:
            return set()
        page = self.page
        shown = sum(word_count(t) for k, t in zip(page.kind, page.text, strict=True) if k == TEXT)
        hidden = self.doubted.total()
        total = hidden + shown
        gone: set[Rule | str] = set()
        for why, words in self.doubted.most_common():
            if 2 * hidden <= total:
                break
            if isinstance(why, str) and self.times[why] < 2 and shown:
                continue
            gone.add(why)
            hidden -= words
        return gone


def _numbering(page: Source, kept: dict[int, str], keep: Collection[str]) -> dict[int, str]:
    """What says how people see lists numbered, behind what stays of their attributes otherwise, by tag."""
    found: dict[int, str] = {}
    for k in np.flatnonzero(codes_among(page.codes, _LISTS)).tolist():
        if any(name in page.tag[k].lower() for name in NUMBERS):
            said = numbers_of(page.attributes(k), keep)
            if said:
                found[k] = kept.get(k, "") + said
    return found


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
    source: Source,
    events: Events,
    texts: Texts,
    keep: Collection[str],
    kept: dict[int, str],
    numbering: dict[int, str],
    reach: Reach,
    ranges: Ranges | None,
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
    write_math(rows, source.names, source.attributes)
    found = nest(rows, source.names)
    output = Output(
        rows,
        found,
        source.names,
        texts,
        np.append(concealed.texts, False),
        kept | numbering,
        source.attributes,
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
    fill_columns(page, source, rows.mark[found.opens], keep)
    page.dropped = merged(concealed.dropped, source.dropped)
    return Cleaned(page, source, rows, found.opens, row, concealed.doubted, concealed.times)


def read(source: str, keep_attributes: Collection[str], drop_hidden: bool) -> Cleaned:
    """Clean a page and say where all of it comes from; any text is accepted.

    Once more without what turns out to hide too much (see `Cleaned.overdone`).
    """
    page = scan(sanitize(source), drop_hidden=drop_hidden)
    found = nested(page)
    events, nesting = found or (repaired(page), None)
    texts = read_texts(events.joined)
    keep = frozenset(a.lower() for a in keep_attributes)
    kept = _kept(page, events, keep, drop_hidden)
    numbering = _numbering(page, kept, keep)
    sheet = read_sheet("\n".join(page.styles)) if drop_hidden and page.styles else None
    doubted: set[str] = set()
    for left in (2, 1, 0):
        reach, ranges = unseen(page, sheet, nesting, doubted) if drop_hidden else (NOTHING, [])
        made = _write(page, events, texts, keep, kept, numbering, reach, ranges)
        gone = made.overdone()
        if not gone:
            break
        reasons = {why for why in gone if isinstance(why, str)}
        if reasons:
            doubted |= reasons if left > 1 else UNDONE
        if sheet and gone > reasons:
            sheet = sheet.without({why for why in gone if isinstance(why, Rule)}) if left > 1 else None
    made.notes = tuple(_NOT_BELIEVED.format(why=why) for why in sorted(doubted))
    return made


def clean(source: str, keep_attributes: Collection[str] = (), *, drop_hidden: bool = True) -> CleanPage:
    """Clean a page.

    Args:
        source: any text; it need not be well formed, nor HTML.
        keep_attributes: names of attributes that stay (``href``, ``alt``, ``colspan``, ...).
        drop_hidden: whether what people do not see goes; ``html_hidden`` lists what that is.
    """
    return read(source, keep_attributes, drop_hidden).page
