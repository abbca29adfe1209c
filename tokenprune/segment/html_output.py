"""The output of a cleaned page: white space, line breaks, and elements that need not stay.

Two things stand in each row: a tag, then a text. What each of them needs before it depends on what has been
met and written so far. Every such question is of the form "when was the last ... before this?", and is
answered for all rows at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from tokenprune.arrays import BoolArray, IntArray
from tokenprune.segment.html_gaps import Gaps
from tokenprune.segment.html_names import PerName, among
from tokenprune.segment.html_page import BREAK, CLOSE, OPEN, TEXT, CleanPage, escape_text
from tokenprune.segment.html_rows import BREAKS, ENDS, NOTHING, PARTS, SHOWS, STARTS, Rows
from tokenprune.segment.html_tags import APART, BLOCKS, CELLS, CODE, GENERIC, PRE, STRUCTURAL
from tokenprune.segment.html_texts import Texts
from tokenprune.segment.html_tree import Tree, last_of, moved_down
from tokenprune.segment.html_wrappers import Wrappers

_TEXT, _WHITE = 10, 11  # acts of texts
_CLASSES = among(APART, BLOCKS, CELLS, GENERIC | STRUCTURAL, PRE, CODE)
_OPENING, _CLOSING = PerName("<{}>".format, object), PerName("</{}>".format, object)
_AHEAD = np.asarray([" ", "\n", "<br>"], dtype=object)


class Output:
    """Works out the output.

    Args:
        rows: what tags do.
        found: the elements that are written.
        names: of tags, by place.
        texts: that stand behind them, by event.
        gone: bool [events + 1], texts that are left out.
        kept: attributes that stay, by mark.
        attributes: of a tag as they are written, by mark.

    Attributes:
        row: int64 [e], the row that each event of the page comes from.
        mixed: inline elements that hold a block.
    """

    def __init__(
        self,
        rows: Rows,
        found: Tree,
        names: list[str],
        texts: Texts,
        gone: BoolArray,
        kept: Mapping[int, str],
        attributes: Callable[[int], str],
    ) -> None:
        self.rows, self.found, self.names, self.texts, self.kept = rows, found, names, texts, kept
        self.attributes = attributes
        self.place = rows.place[found.opens]
        said = _CLASSES.of(names)[self.place].T
        self.apart, self.block, cells, self.grouping, pre, code = said
        self.event = rows.event
        self.row = rows.event  # of each event of the page, once it is written
        self.some = texts.some[self.event] & ~gone[self.event]
        self.in_pre = self._within(pre)
        self.shown = self.some & (texts.words[self.event] | self.in_pre)
        self.stays = self._hold(cells)
        # Whether an element holds words or inline elements of its own; the last is the page.
        self.own = np.zeros(len(self.place) + 1, dtype=bool)
        self.own[found.inside[self.shown]] = True
        self.own[found.inside[rows.act == SHOWS]] = True
        self.own[found.parent[self.stays & ~self.grouping]] = True
        self.verbatim = self.in_pre | self._in_code(self._within(code))
        self.shown |= self.some & self.verbatim
        self.white = bool((self.shown & ~texts.words[self.event]).any())  # whether any is written as it is
        self._leave_out()

    def _within(self, chosen: BoolArray) -> BoolArray:
        """Whether the text of each row lies in a chosen element, bool [n]."""
        steps = np.zeros(len(self.event), dtype=np.int64)
        if not chosen.any():
            return steps > 0
        steps[self.found.opens[chosen]] = 1
        steps[self.found.close[chosen]] = -1
        return np.cumsum(steps) > 0

    def _hold(self, cells: BoolArray) -> BoolArray:
        """Whether elements hold anything, bool [m]; cells stay as well, since columns depend on them."""
        found = self.found
        held = self.shown + (self.rows.act == SHOWS).astype(np.int64)
        held[found.opens[cells]] += 1
        so_far = np.concatenate(([0], np.cumsum(held)))
        return so_far[found.close] > so_far[found.opens]

    def _in_code(self, code: BoolArray) -> BoolArray:
        """Which texts are written as they are since they stand in code, bool [n].

        White space is so only behind words, or the end of an inline element, in the same element.
        """
        texts, found = self.texts, self.found
        written = code & self.some
        blank = [row for row in np.flatnonzero(written).tolist() if texts.plain[self.event[row]].isspace()]
        if blank:
            first = np.full(
                len(self.own), len(self.event), dtype=np.int64
            )  # row before whose text there is any
            at = np.flatnonzero(self.shown)
            np.minimum.at(first, found.inside[at], at + 1)
            at = np.flatnonzero(self.rows.act == SHOWS)
            np.minimum.at(first, found.inside[at], at)
            inline = np.flatnonzero(self.stays & ~self.grouping)
            np.minimum.at(first, found.parent[inline], found.close[inline])
            at = np.asarray(blank)
            written[at] = (first[found.inside[at]] <= at) & (found.inside[at] >= 0)
        return written

    def written_texts(self) -> BoolArray:
        """Which texts are in the output, bool [events + 1]."""
        found = np.zeros(len(self.texts.words), dtype=bool)
        found[self.event[self.shown]] = True
        return found

    def _leave_out(self) -> None:
        """Take the tags of elements without words out; where they stood, lines end."""
        rows, found = self.rows, self.found
        empty = ~self.stays
        self.broken = np.zeros(len(self.own), dtype=bool)  # elements that hold a line break
        if not empty.any():
            return
        rows.act[found.opens[empty]] = NOTHING
        rows.act[found.close[empty]] = np.where(self.apart[empty], PARTS, NOTHING)
        breaks = np.flatnonzero(rows.act == BREAKS)
        inside = found.inside[breaks]
        lost = (inside >= 0) & np.append(empty, False)[inside]
        rows.act[breaks[lost]] = PARTS
        self.broken[inside[lost]] = ~self.apart[inside[lost]]

    def write(self) -> CleanPage:
        """Return the page; what was dropped is not noted yet."""
        rows, found, n = self.rows, self.found, len(self.event)
        every = np.zeros(2 * n, dtype=np.int64)
        every[::2] = rows.act
        every[1::2] = np.where(self.shown, _TEXT, np.where(self.some, _WHITE, NOTHING))
        gaps = 2 * self._gaps()
        gaps = gaps[every[gaps] == NOTHING]
        every[gaps] = PARTS  # a line break: it parts words, and is none itself
        at = np.flatnonzero(every)
        act, row, gap = every[at], at >> 1, np.isin(at, gaps)
        event = self.event[row]
        element = np.full(n, -1, dtype=np.int64)  # that each tag starts or ends
        element[found.opens] = element[found.close] = np.arange(len(self.place))
        element = element[row]
        starts, ends, text = act == STARTS, act == ENDS, act == _TEXT
        breaks, images = act == BREAKS, act == SHOWS
        tags = starts | ends
        apart = tags & self.apart[element] if len(self.apart) else tags
        block = starts & self.block[element] if len(self.block) else starts
        inline = (starts & ~block) | images
        loose = text & ~self.verbatim[row]

        # White space is due where the last of these, before each act, was white or ended in it.
        behind = (act == _WHITE) | (loose & self.texts.behind[event])
        due = _flag_of_last(behind, behind | text | inline)
        # A line has been ended, or nothing written yet: then white space says nothing until words come.
        words = moved_down(last_of(text | images), -1)
        ended = (moved_down(last_of(block & due), -1) > words) | (words < 0)
        due &= ~ended
        spaced = (due & (inline | text)) | (loose & ~ended & self.texts.before[event])
        lined = due & block

        # Where a line begins anyway, a line break is not written.
        mine = tags | text | images | breaks
        fresh = _flag_of_last(apart | images | breaks, mine)
        breaks &= ~fresh
        mine &= breaks | (act != BREAKS)
        parts = act == PARTS
        parted = moved_down(last_of(parts & ~gap), -1) > moved_down(last_of(text | (inline & spaced)), -1)
        if len(gaps):  # tags that are written part words as well
            parted |= moved_down(last_of(gap), -1) > moved_down(last_of(text | inline), -1)
        parted &= text & ~spaced & ~ended & ~fresh

        # Events: each act is one, and what is due before it another.
        due = spaced | lined | parted
        place = np.cumsum(mine.astype(np.int64) + due) - 1
        size = int(place[-1]) + 1 if len(place) else 0
        first, at = place[due] - 1, place[mine]
        last = moved_down(last_of(mine), -1)
        inside = found.inside[row]
        around = np.where(tags, found.parent[element], inside) if len(self.place) else inside

        begin = np.where(text, rows.cursor[row], np.where(ends, rows.close[row], rows.begin[row]))
        after = np.where(text, rows.stop[row], np.where(ends, rows.close[row], rows.after[row]))
        ended_at = np.where(last < 0, 0, after[last])
        before = np.where(spaced, ended_at, np.where(parted, rows.cursor[row], begin))
        line_end = lined | ((last >= 0) & ends[last] & apart[last])
        kind = np.where(starts, OPEN, np.where(ends, CLOSE, np.where(text, TEXT, BREAK)))

        def laid_out(main: IntArray, ahead: IntArray) -> IntArray:
            column = np.empty(size, dtype=np.int64)
            column[first], column[at] = ahead[due], main[mine]
            return column

        kinds = laid_out(kind, np.where(parted, BREAK, TEXT))
        nodes = laid_out(np.where(tags, element, inside), around)
        self.row = laid_out(row, row)
        self.broken[nodes[kinds == BREAK]] = True
        written = np.empty(size, dtype=object)
        written[first] = _AHEAD[np.where(parted, 2, line_end)[due]]
        written[place[starts]] = _OPENING.of(self.names)[self.place[element[starts]]]
        written[place[ends]] = _CLOSING.of(self.names)[self.place[element[ends]]]
        written[place[breaks]] = "<br>"
        written[place[text]] = self._said(event[text], self.verbatim[row[text]])
        for k in np.flatnonzero(starts | images).tolist() if self.kept else ():
            mark = int(rows.mark[row[k]])
            if mark in self.kept:
                written[place[k]] = f"<{self.names[rows.place[row[k]]]}{self.kept[mark]}>"
        self.dangling = place[text & self.texts.sign[event]].tolist()
        return self._page(kinds, nodes, laid_out(begin, before), laid_out(after, before), written.tolist())

    def _gaps(self) -> IntArray:
        white = self.some & ~self.shown
        gaps = Gaps(self.rows, self.names, self.texts, self.shown, white, self.verbatim, self.attributes)
        return gaps.find()

    def _said(self, event: IntArray, verbatim: BoolArray) -> list[str]:
        """The texts of some events as they are written."""
        said = list(map(self.texts.written.__getitem__, event.tolist()))
        for k in np.flatnonzero(verbatim).tolist():
            said[k] = escape_text(self.texts.plain[event[k]])
        return said

    def _page(
        self, kinds: IntArray, nodes: IntArray, begins: IntArray, afters: IntArray, written: list[str]
    ) -> CleanPage:
        """Settle which elements are needed."""
        parent, blocks = self.found.parent, self.stays & self.grouping
        kids = np.bincount(parent[blocks] + 1, minlength=len(parent) + 1)[1:]
        tag = list(map(self.names.__getitem__, self.place.tolist()))
        wrappers = Wrappers(tag, parent, self.stays, blocks, self.own[:-1], kids)
        wrappers.settle()
        self.mixed = np.flatnonzero(self.stays & ~self.apart & (kids > 0)).tolist()
        bare = [
            a or b for a, b in zip([*wrappers.own, bool(self.own[-1])], self.broken.tolist(), strict=True)
        ]
        return CleanPage(kinds, nodes, begins, afters, written, tag, wrappers.parent, wrappers.alive, bare)


def _flag_of_last(flag: BoolArray, among: BoolArray) -> BoolArray:
    """What the last of some acts before each one says; where there is none before, True."""
    last = moved_down(last_of(among), -1)
    return flag[last] | (last < 0)
