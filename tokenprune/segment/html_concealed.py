"""What is left out of a page because people do not see it, and what the receipt says of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from typing import NamedTuple

import numpy as np

from tokenprune.arrays import BoolArray, IntArray
from tokenprune.segment.html_hidden import UNDONE, VISIBILITY
from tokenprune.segment.html_open import Unseen
from tokenprune.segment.html_page import fold
from tokenprune.segment.html_reach import Reach
from tokenprune.segment.html_repair import Events
from tokenprune.segment.html_rows import NOTHING, PARTS, Rows
from tokenprune.segment.html_sheets import Rule
from tokenprune.segment.html_source import CLOSES, ENDED, OPENS, Source
from tokenprune.segment.html_tags import VOID
from tokenprune.segment.html_unseen import Ranges
from tokenprune.segment.invisible import Dropped
from tokenprune.segment.word_counts import word_count


class _Veil(NamedTuple):
    """An element whose own text is not seen."""

    depth: int
    begin: int
    shown: int  # texts and pictures in the output before it
    reason: str


class Concealer:
    """Goes through the tags and texts around which something is not seen.

    Attributes:
        tags: bool [n], rows of tags that go with all of their element.
        texts: bool [n], rows of texts that go.
        void: what becomes of tags without content that are not seen, by row.
        dropped: source ranges with reasons.
        doubted: words that are hidden by each rule of a style sheet, and for each reason that scripts undo.
        times: how many elements are hidden for each such reason.
        veiled: whether there are elements in which something else may be seen, though their text is not.
    """

    def __init__(
        self,
        page: Source,
        events: Events,
        rows: Rows,
        reach: Reach,
        ranges: Ranges | None,
        kept: Collection[int],
    ) -> None:
        """Take what there is to go by.

        Args:
            page: as it is written.
            events: its tags and texts.
            rows: as they are placed.
            reach: what is not seen.
            ranges: of tags, first and last, outside of which all is seen; None: not known.
            kept: tags of which attributes stay.
        """
        self.page, self.events, self._ranges, self._kept = page, events, ranges, kept
        self._tags, self._texts = reach
        self._begin, self._behind, self._ends, self._sets = rows.begin, rows.cursor, rows.stop, rows.sets

    def run(self, written: BoolArray) -> None:
        """Find what goes.

        Args:
            written: bool [n], rows whose text is in the output if it is seen.
        """
        self._written = written
        n = len(self.events.code)
        self.tags, self.texts = np.zeros(n, dtype=bool), np.zeros(n, dtype=bool)
        self.void: dict[int, int] = {}
        self.dropped: list[Dropped] = []
        self.doubted: Counter[Rule | str] = Counter()
        self.times: Counter[str] = Counter()
        self._last: Unseen | _Veil | None = None  # whose words were counted last
        self.veiled = False
        self._hidden_from, self._hidden_why = -1, ""
        self._unseen: Unseen | None = None  # why text here is not seen
        self._around: list[Unseen | None] = []  # the same right inside each open tag
        self._veils: list[_Veil] = []
        self._shown = 0
        self._cursor = self._stop = 0
        if not (self._tags or self._texts):
            return
        if self._ranges is None:
            self._go(range(n))
        else:
            told = np.flatnonzero(self._sets)
            behind = 0
            for first, last in self._ranges:
                first, last = first + self.events.implied, last + self.events.implied
                self._leave(told, behind, first)
                self._go(range(first, last + 1))
                behind = last + 1
            self._leave(told, behind, n)
        if self._hidden_from >= 0:
            self.dropped.append((self._hidden_from, int(self._ends[-1]), self._hidden_why))

    def _leave(self, told: IntArray, first: int, stop: int) -> None:
        """Go past rows in which all is seen; ``told`` are rows of which it is known where they stand."""
        at = int(np.searchsorted(told, first))
        if self._hidden_from >= 0 and at < len(told) and told[at] < stop:
            row = int(told[at])
            begins = self.events.code[row] & 3 in (OPENS, ENDED)
            self._unhide(int((self._begin if begins else self._behind)[row]))

    def _go(self, rows: Iterable[int]) -> None:
        page, events = self.page, self.events
        names, words = page.names, page.words
        for row in rows:
            kind, name, mark = events.code[row] & 3, names[events.code[row] >> 2], events.mark[row]
            if kind in (OPENS, ENDED):
                self._start(row, name, mark)
                if kind == ENDED and name not in VOID:
                    self._stop = self._cursor
                    self._end()
            elif kind == CLOSES:
                self._end()
            if words[mark] and mark >= 0:
                self._cursor, self._stop = page.after[mark], page.ends[mark]
                self._unseen = self._texts.get(mark)
                if self._unseen is None:
                    self._unhide(self._cursor)
            text = events.text[row]
            if not text:
                continue
            blank = text.isspace()
            if self._unseen is not None:
                self.texts[row] = True
                if not blank:
                    self._pass_over(text, self._unseen)
                continue
            if not blank:
                # libxml2 ended the hidden element before a text that was announced inside it.
                self._unhide(self._cursor)
            self._shown += bool(self._written[row])

    def _start(self, row: int, name: str, mark: int) -> None:
        begin, unseen = self._cursor, self._unseen
        if mark >= 0:
            page = self.page
            begin, self._cursor, self._stop = page.begin[mark], page.after[mark], page.ends[mark]
            self._unseen, unseen = self._texts.get(mark), self._tags.get(mark)
        if unseen is not None and unseen.whole:
            self._hide(begin, unseen.reason)
            self.tags[row] = True
        else:
            self._unhide(begin)
            if name not in VOID:
                self._veil(begin)
            elif self._unseen is not None and (name == "br" or self._unseen.reason == VISIBILITY):
                self.void[row] = PARTS if name in ("br", "hr") else NOTHING
            elif name == "img" and mark in self._kept:
                self._shown += 1
        if name not in VOID:
            self._around.append(self._unseen)

    def _end(self) -> None:
        if self._around:
            self._around.pop()
            self._unseen = self._around[-1] if self._around else None
            if self._veils and self._veils[-1].depth == len(self._around):
                veil = self._veils.pop()
                if self._shown == veil.shown:  # nothing in it is seen: it is gone as a whole
                    self._hide(veil.begin, veil.reason)

    def _veil(self, begin: int) -> None:
        """Meet a start tag behind which text is not seen, where the text around it is."""
        around = self._around[-1] if self._around else None
        if self._unseen is not None and not self._unseen.whole and around is None:
            self.veiled = True
            self._veils.append(_Veil(len(self._around), begin, self._shown, self._unseen.reason))

    def _hide(self, begin: int, reason: str) -> None:
        if self._hidden_from < 0 or begin <= self._hidden_from:
            self._hidden_from, self._hidden_why = begin, reason

    def _unhide(self, at: int) -> None:
        """Note what is hidden when the first thing behind a hidden element comes."""
        if self._hidden_from >= 0:
            self.dropped.append((self._hidden_from, max(at, self._hidden_from), self._hidden_why))
            self._hidden_from = -1

    def _pass_over(self, text: str, unseen: Unseen) -> None:
        """Leave out a text that is not seen."""
        if unseen.rule is not None and (unseen.whole or unseen.reason == VISIBILITY):
            self.doubted[unseen.rule] += word_count(fold(text))
        elif unseen.reason in UNDONE:
            self.doubted[unseen.reason] += word_count(fold(text))
            outermost = unseen if unseen.whole else self._veils[0] if self._veils else None
            if outermost is not self._last or outermost is None:
                self.times[unseen.reason] += 1
            self._last = outermost
        if unseen.whole:
            self._hide(self._cursor, unseen.reason)
        else:
            self._unhide(self._cursor)
            self.dropped.append((self._cursor, self._stop, unseen.reason))
