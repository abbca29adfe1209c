"""Cutting a cleaned page into blocks: a walk over its elements, as deep as they have too many words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from html import unescape
from itertools import accumulate, pairwise

import numpy as np

from tokenprune.arrays import BoolArray, IntArray
from tokenprune.document import Document
from tokenprune.segment.html_leads import Leads
from tokenprune.segment.html_limit import TokenLimit
from tokenprune.segment.html_page import BREAK, CLOSE, OPEN, TEXT, CleanPage
from tokenprune.segment.html_ranges import source_offsets, whole_entities
from tokenprune.segment.html_tags import APART, CELLS, GENERIC, HEADINGS, LISTS, PARTED_MATH
from tokenprune.segment.sentences import sentence_starts, split_long
from tokenprune.segment.word_breaks import may_break, next_break
from tokenprune.segment.word_counts import word_count, word_counts

# A row is read as a whole, and so is a thead; what is in it becomes blocks of its own only when it is much
# longer than a block.
_ROW_FACTOR = 3
_WHOLE = frozenset(("tr", "thead"))
# Cells behind this many do not hold the places of their columns when they go: it would cost too much.
_COLUMNS = 64
# A sentence of more characters per word that it may have is cut, and so is a word of that many.
_LETTERS = 10
# A word that follows an inline element without a space goes with it if it has so many characters at most.
_GLUED = 40


class Cutter:
    """Walks the events of a page once and deals them out to units and wrappers.

    Attributes:
        runs: (first event, event behind the last, owner) of what stands together.
        parts: of runs that are a part of a text: which, and where in the source it begins and ends.
        unit_begin: where each unit begins.
        wrapper: the innermost wrapper around each unit.
        leads: which unit leads which.
        wrapper_parent: the wrapper around each wrapper.
    """

    def __init__(
        self,
        page: CleanPage,
        document: Document,
        max_words: int,
        sentence_words: int,
        limit: TokenLimit | None = None,
    ) -> None:
        self.page, self.document, self.max_words, self.limit = page, document, max_words, limit
        self._longest_sentence = _LETTERS * sentence_words
        counts = np.zeros(len(page.text), dtype=np.int64)
        texts = np.flatnonzero(page.kinds == TEXT)
        counts[texts] = word_counts([page.text[i] for i in texts.tolist()])
        words = np.concatenate(([0], np.cumsum(counts)))
        self.words: list[int] = words.tolist()
        close_of, self.in_line = _elements(page)
        # What is larger than a block is split as one is, such as code in pre.
        opens = np.flatnonzero(page.kinds == OPEN)
        ends = close_of[page.nodes[opens]] + 1
        large = words[ends] - words[opens] > max_words
        if limit is not None:
            large |= ~limit.hold(opens, ends)
        for node in page.nodes[opens[large]].tolist():
            self.in_line[node] = False
        self.close_of: list[int] = close_of.tolist()
        self.says, self.shown = _said(page)
        self.runs: list[tuple[int, int, int]] = []
        self.parts: dict[int, tuple[str, int, int]] = {}
        self.unit_begin: list[int] = []
        self.wrapper: list[int] = []
        self.leads = Leads(page)
        self.wrapper_parent: list[int] = []
        self._asked: dict[int, str] = {}  # texts of units
        # State of the walk.
        self.open_wrappers: list[int] = [-1]
        self.row: dict[
            int, tuple[int, int]
        ] = {}  # row -> wrapper of its last cell with words, number of those
        self.loose: list[int] = []  # white-space events that go with what follows
        self.from_offset = -1  # source offset of tags and spaces since the last unit

    # -- the walk -------------------------------------------------------------------------------------

    def walk(self) -> None:
        """Deal all events out."""
        page = self.page
        i, n = 0, len(page.kind)
        while i < n:
            kind, node = page.kind[i], page.node[i]
            if kind == CLOSE:
                self._leave(i, node)
                i += 1
            elif kind == OPEN and not self._in_line(node):
                end = self.close_of[node] + 1
                tag = page.tag[node]
                times = _ROW_FACTOR if tag in _WHOLE else 1
                if tag in CELLS and self._in_row(node):
                    self._enter(i, node)
                    i += 1
                    if self.words[i] < self.words[end] and self._fits(i, end - 1):
                        self._block(range(i, end - 1), "")
                        i = end - 1
                elif tag == "dt" and (stop := self._beside(i, "dt", i)[0]) > i:
                    end, whole = self._beside(stop, "dd", i)
                    is_entry = whole and end > stop
                    self._block(range(i, end if is_entry else stop), "entry" if is_entry else tag, node)
                    i = end if is_entry else stop
                elif self._fits(i, end, times) and not self.leads.holds_header(node):
                    self._block(range(i, end), self._only_heading(i, end) if tag in GENERIC else tag, node)
                    i = end
                else:
                    self._enter(i, node)
                    i += 1
            else:
                i = self._run(i)
        self._flush_loose(self.runs[-1][2] if self.runs else None)

    def _fits(self, i: int, j: int, times: int = 1) -> bool:
        """Whether the events from ``i`` up to ``j`` are a block; their words may be so many times as many."""
        few = self.words[j] - self.words[i] <= times * self.max_words
        return few and (self.limit is None or self.limit.holds(i, j))

    def _beside(self, i: int, tag: str, begin: int) -> tuple[int, bool]:
        """Find the elements of a name that stand side by side.

        Args:
            i: where they begin.
            tag: their name.
            begin: from there on, they are no more than a block.

        Returns:
            Where they end, and whether these are all.
        """
        page, end = self.page, i
        while i < len(page.kind):
            if page.kind[i] == OPEN and page.tag[page.node[i]] == tag:
                i = self.close_of[page.node[i]] + 1
                if not self._fits(begin, i):
                    return end, False
                end = i
            elif page.kind[i] == TEXT and page.text[i].isspace():
                i += 1
            else:
                break
        return end, True

    def _in_line(self, node: int) -> bool:
        return self.in_line[node]

    def _enter(self, i: int, node: int) -> None:
        """Split an element: if it is alive its tags become a wrapper."""
        self.leads.enter(node)
        if self.page.tag[node] in LISTS:
            self._introduce()
        if self.page.alive[node]:
            wrapper = self._wrapper(i, node)
            self.open_wrappers.append(wrapper)
            self._flush_loose(-1 - wrapper)
            if self.from_offset < 0:
                self.from_offset = self.page.begin[i]
            self._piece(i, -1 - wrapper)

    def _only_heading(self, i: int, end: int) -> str:
        """The heading that holds all words of a grouping element; "" where there is none."""
        page = self.page
        while i < end:
            if page.kind[i] == OPEN:
                tag, close = page.tag[page.node[i]], self.close_of[page.node[i]]
                if tag in HEADINGS:
                    return tag if self.words[close] == self.words[end] else ""
                if tag not in GENERIC:
                    return ""
            elif page.kind[i] != TEXT or not page.text[i].isspace():
                return ""
            i += 1
        return ""

    def _in_row(self, node: int) -> bool:
        """Whether an element stands right in a row that is split."""
        row = self.page.parent[node]
        return row >= 0 and self.page.tag[row] == "tr"

    def _wrapper(self, i: int, node: int) -> int:
        """Return the wrapper for an element's tags.

        A cell of a split row has its column from the cells before it. So its wrapper stands in theirs, as far
        as costs and masks go: where a cell is kept, the tags of all before it are. An empty one goes with
        the cell before it.
        """
        outer = self.open_wrappers[-1]
        if self.page.tag[node] in CELLS and self._in_row(node):
            row = self.page.parent[node]
            outer, cells = self.row.get(row, (outer, 0))
            if self.words[self.close_of[node]] == self.words[i]:
                return outer
            if cells < _COLUMNS:
                self.row[row] = (len(self.wrapper_parent), cells + 1)
        self.wrapper_parent.append(outer)
        return len(self.wrapper_parent) - 1

    def _leave(self, i: int, node: int) -> None:
        if self.page.alive[node]:
            owner = -1 - self.open_wrappers.pop()
            self._flush_loose(owner)
            self._piece(i, owner)
        self.leads.leave(node)

    def _run(self, i: int) -> int:
        """Take bare text and inline elements up to the next block; return where that is."""
        page, n = self.page, len(self.page.kind)
        j = i
        while j < n and page.kind[j] != CLOSE and (page.kind[j] != OPEN or self._in_line(page.node[j])):
            j = self.close_of[page.node[j]] + 1 if page.kind[j] == OPEN else j + 1
        if self.words[j] == self.words[i] and all(
            page.kind[k] == BREAK or page.text[k].isspace() for k in range(i, j)
        ):
            self.loose.extend(range(i, j))
        elif self._fits(i, j):
            self._block(range(i, j), "")
        else:
            self._long_run(i, j)
        return j

    def _long_run(self, i: int, j: int) -> None:
        """Cut a run between sentences (lines in code) into units of at most ``max_words`` words or so."""
        page = self.page
        reads = [self._reads(k) for k in range(i, j)]
        text = "".join(reads)
        edges = [0, *accumulate(map(len, reads))]
        ends: list[tuple[int, int, int]] = []  # first event, event behind it and end in the text of each part
        whole: list[tuple[int, int]] = []  # where inline elements stand, which are not cut
        k = i
        while k < j:
            stop = self.close_of[page.node[k]] + 1 if page.kind[k] == OPEN else k + 1
            if page.kind[k] == OPEN:
                whole.append((edges[k - i], edges[stop - i]))
            ends.append((k, stop, edges[stop - i]))
            k = stop
        cuts = iter([*_outside(text, self._chunks(text, i, edges, whole), whole), len(text) + 1])
        cut = next(cuts)
        at, unit = 0, -1
        for k, stop, end in ends:
            if unit < 0 or at >= cut:
                unit = self._unit("", page.begin[k])
                while at >= cut:
                    cut = next(cuts)
            if page.kind[k] == TEXT and at < cut < end:
                unit, cut = self._split_text(k, at, cut, cuts, unit)
            else:
                self.runs.append((k, stop, unit))
            at = end

    def _reads(self, event: int) -> str:
        """What an event says to someone who looks for words and lines."""
        kind, text = self.page.kind[event], self.page.text[event]
        return text if kind == TEXT else "" if kind != BREAK else "\n" if text == "<br>" else " "

    def _split_text(self, k: int, at: int, cut: int, cuts: Iterator[int], unit: int) -> tuple[int, int]:
        page = self.page
        text = page.text[k]
        inside = [0]
        while cut < at + len(text):
            inside.append(cut - at)
            cut = next(cuts)
        offsets = source_offsets(self.document.text[page.begin[k] : page.after[k]], text, inside)
        sources = [page.begin[k] + o for o in offsets]
        for n, (a, b) in enumerate(zip(inside, [*inside[1:], len(text)], strict=True)):
            if n:
                unit = self._unit("", sources[n])
            end = sources[n + 1] if n + 1 < len(sources) else page.after[k]
            self.parts[len(self.runs)] = text[a:b], sources[n], end
            self._piece(k, unit)
        return unit, cut

    def _chunks(self, text: str, i: int, edges: list[int], whole: list[tuple[int, int]]) -> list[int]:
        """Offsets of sentences (of lines in ``<pre>``) at which a unit is full.

        That is at about ``max_words`` words or half the tokens that a block may have.

        Args:
            text: what the events from ``i`` on read.
            i: the first event.
            edges: where each event begins in the text, and where the last one ends.
            whole: ranges of the text that are not cut.
        """
        node = self.page.node[i]
        while node >= 0 and self.page.tag[node] not in ("pre", "textarea"):
            node = self.page.parent[node]
        if node >= 0:
            starts = [0, *(m.end() for m in re.finditer(r"\n", text) if m.end() < len(text))]
        else:
            starts = sentence_starts(text)
        if self.limit is None:
            starts = split_long(text, starts, self._longest_sentence)
        else:  # what its slices hold is known only once they end where they will be cut
            starts = split_long(text, _outside(text, starts, whole), self._longest_sentence)
            starts = _outside(text, self.limit.split(text, starts, i, edges), whole, before=True)
        starts = [whole_entities(text, s) for s in starts]
        bounds = [*starts, len(text)]
        tokens = [0] * len(starts) if self.limit is None else self.limit.counts(bounds, i, edges)
        most = 0 if self.limit is None else self.limit.most // 2
        cuts: list[int] = []
        words = spent = 0
        for (a, b), more in zip(pairwise(bounds), tokens, strict=True):
            count = word_count(text[a:b])
            if words and (words + count > self.max_words or spent + more > most):
                cuts.append(a)
                words = spent = 0
            words, spent = words + count, spent + more
        return cuts

    # -- units and pieces -----------------------------------------------------------------------------

    def _block(self, events: range, tag: str, node: int = -1) -> None:
        """Make one unit of a range of events: an element, or -1."""
        words = self.words[events.stop] > self.words[events.start]
        unit = self._unit(tag, self.page.begin[events.start], node, words=words)
        self.runs.append((events.start, events.stop, unit))

    def _unit(self, tag: str, begin: int, node: int = -1, *, words: bool = True) -> int:
        """Add a unit inside the open wrappers; settle what leads it and whether it leads others."""
        unit = len(self.wrapper)
        if tag in LISTS:
            self._introduce()
        self.wrapper.append(self.open_wrappers[-1])
        self.leads.add(tag, node, words=words)
        self.unit_begin.append(begin if self.from_offset < 0 else self.from_offset)
        self.from_offset = -1
        self._flush_loose(unit)
        return unit

    def _introduce(self) -> None:
        """Let "The options are:" lead the list that follows."""
        last = len(self.wrapper) - 1
        if last >= 0 and self._unit_text(last).endswith((":", "\uff1a")):
            self.leads.introduce()

    def _unit_text(self, unit: int) -> str:
        """Visible text of one of the units written last."""
        if unit not in self._asked:
            first = len(self.runs)
            while first and not 0 <= self.runs[first - 1][2] < unit:
                first -= 1
            said: list[str] = []
            for k in range(first, len(self.runs)):
                start, stop, owner = self.runs[k]
                if owner == unit:
                    said += [self.parts[k][0]] if k in self.parts else self.says[start:stop]
            self._asked[unit] = visible(said)
        return self._asked[unit]

    def _flush_loose(self, owner: int | None) -> None:
        if owner is not None:
            for i in self.loose:
                self._piece(i, owner)
        self.loose.clear()

    def _piece(self, i: int, owner: int) -> None:
        self.runs.append((i, i + 1, owner))


def _elements(page: CleanPage) -> tuple[IntArray, list[bool]]:
    """Where each element ends, int64 [m], and whether it is inline and holds no block."""
    kinds, nodes = page.kinds, page.nodes
    apart = np.fromiter(map(APART.__contains__, page.tag), dtype=bool, count=len(page.tag))
    ends = np.flatnonzero(kinds == CLOSE)
    close_of = np.zeros(len(apart), dtype=np.int64)
    close_of[nodes[ends]] = ends
    holds = np.zeros(len(apart) + 1, dtype=bool)
    parent = np.asarray(page.parent, dtype=np.int64)
    found = nodes[ends]  # those that hold a block in the element around them: blocks, and then what holds one
    written = np.zeros(len(apart), dtype=bool)
    written[found] = True
    found = found[apart[found]]
    while len(found):
        around = parent[found]
        fresh = np.unique(around[(around >= 0) & ~holds[around]])
        holds[fresh] = True
        found = fresh[written[fresh] & ~apart[fresh]]
    in_line: list[bool] = (~apart & ~holds[:-1]).tolist()
    return close_of, in_line


def _said(page: CleanPage) -> tuple[list[str], BoolArray]:
    """What each event says, a tag a space if it sets words apart, and whether the event is in the output."""
    kinds, nodes = page.kinds, page.nodes
    says = np.empty(len(kinds), dtype=object)
    says[:] = page.text
    tags = (kinds == OPEN) | (kinds == CLOSE)
    apart = np.fromiter(map(APART.__contains__, page.tag), dtype=bool, count=len(page.tag))
    shown = page.shown()
    if not PARTED_MATH.isdisjoint(page.tag):  # "1/2" is not "12"
        parted = np.fromiter(map(PARTED_MATH.__contains__, [*page.tag, ""]), dtype=bool)
        apart |= parted[np.asarray(page.parent, dtype=np.int64)]
    spaced = tags.copy()
    spaced[tags] = apart[nodes[tags]]
    says[tags] = ""
    spaced |= kinds == BREAK  # a line break or a picture
    says[spaced] = " "
    says[~shown] = ""
    return says.tolist(), shown


def _outside(text: str, cuts: list[int], whole: list[tuple[int, int]], *, before: bool = False) -> list[int]:
    """Move cuts out of ranges that stay whole, to the first place behind one where no word is cut.

    With ``before``, they move in front of a range where that cuts no word and no other cut is there, and
    never over the next range, but into the word between the two.
    """
    out: list[int] = []
    n, moved = 0, -1
    for cut in cuts:
        if cut <= moved:
            continue
        while n < len(whole) and whole[n][1] <= cut:
            n += 1
        m = n
        if before and m < len(whole) and moved < whole[m][0] < cut and may_break(text, whole[m][0]):
            cut = whole[m][0]
        while m < len(whole) and whole[m][0] < cut:
            end = whole[m][1]
            cut = max(end, next_break(text, end, end + _GLUED))
            while m < len(whole) and whole[m][1] <= cut:
                m += 1
            if before and m < len(whole) and whole[m][0] < cut:
                cut = end
                break
        moved = cut
        if cut < len(text):
            out.append(cut)
    return out


def visible(said: Iterable[str]) -> str:
    """The words of what some pieces say."""
    return unescape(" ".join("".join(said).split()))
