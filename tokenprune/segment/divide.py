"""One unit cut in two, with exact source ranges, so that a budget can keep its beginning."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import replace
from itertools import pairwise

import numpy as np
import regex

from tokenprune.arrays import BoolArray, IntArray
from tokenprune.segment.html_ranges import source_offsets, whole_entities
from tokenprune.segment.html_tags import BLOCKS, VOID, is_inline, read_tag
from tokenprune.segment.sentences import sentence_starts
from tokenprune.units import Pieces, Units

_CLUSTER = regex.compile(r"\X")
_WORD = regex.compile(r"\S+")
_DIGIT = regex.compile(r"\d")
_NEAR = 64  # characters around a cut that are read for grapheme clusters
_SENTENCE = 1000  # characters before a cut that are read for sentence ends
# Bare text in these stands elsewhere once it is parsed.
_NO_TEXT = frozenset("table caption colgroup thead tbody tfoot tr select optgroup".split())


class Divisible:
    """The words of one unit and the places at which it may be cut.

    Cuts are offsets in ``text``, the unit's words without tags, escaped as in its pieces. The part in front
    of a cut takes the end tags of the elements that are open there and the white space that ends the unit,
    so its output is well formed and words on both sides of the gap stay apart. The first ``least`` characters
    are terms that say nothing without a meaning behind them.

    Args:
        units: of the document.
        unit: which one.
        bare: whether only the first stretch of words without tags is kept, and without the unit's own tags
            and wrappers that nothing else opens: for budgets that the markup alone would use up.
        keep: bool [n], what is kept so far; read when ``bare``.
        last: whether nothing will be kept behind it, so that no line need end where it is cut.
    """

    def __init__(
        self, units: Units, unit: int, keep: BoolArray, *, bare: bool = False, last: bool = False
    ) -> None:
        self.units, self.unit, self.bare, self.last = units, unit, bare, last
        pieces = units.pieces
        self.own: list[int] = np.flatnonzero(pieces.owner == unit).tolist()
        self.tagged = pieces.tag is not None
        tag = [bool(pieces.tag[p]) if pieces.tag is not None else False for p in self.own]
        self.wrapper = int(units.wrapper[unit])
        self.possible = bool(self.own)
        self.only = False  # whether nothing but tags is left out at the last cut
        self.terms = any(t and pieces.text[p].startswith("<dt") for p, t in zip(self.own, tag, strict=True))
        if bare:
            self._only_first_words(tag, keep)
            tag = [False] * len(self.own)
        self.ends: list[int] = []  # of the words of each own piece in `text`
        self.breaks: list[int] = [0]  # where lines and blocks end
        self.end_of: dict[int, int] = {}  # own start tag -> own end tag
        parts: list[str] = []
        opened: list[tuple[str, int]] = []
        at = said = self.least = 0
        begins = False  # whether there is nothing but terms up to the one that is open
        for n, (p, is_tag) in enumerate(zip(self.own, tag, strict=True)):
            if is_tag:
                name, closing = read_tag(pieces.text[p])
                if (name in BLOCKS or name == "br") and not is_inline(name) and at > self.breaks[-1]:
                    self.breaks.append(at)
                if closing:
                    if name == "dt" and begins:
                        self.least = at
                    k = next((k for k in range(len(opened) - 1, -1, -1) if opened[k][0] == name), -1)
                    if k >= 0:
                        self.end_of[opened[k][1]] = n
                        del opened[k:]
                elif name not in VOID:
                    opened.append((name, n))
                    begins = said <= self.least if name == "dt" else begins
            else:
                parts.append(pieces.text[p])
                at += len(parts[-1])
                said = said if parts[-1].isspace() else at
            self.ends.append(at)
        self.tag = tag
        self.text = "".join(parts)
        self.length = len(self.text.rstrip())

    def _only_first_words(self, tag: list[bool], keep: BoolArray) -> None:
        pieces, units = self.units.pieces, self.units
        words = [p for p, t in zip(self.own, tag, strict=True) if not t and not pieces.text[p].isspace()]
        self.only = len(words) == 1
        first = words[0] if words else -1
        self.own = [first] if first >= 0 else []
        opened = units.open_wrappers(keep)
        while self.wrapper >= 0 and not opened[self.wrapper]:
            self.wrapper = int(units.wrapper_parent[self.wrapper])
        w = self.wrapper
        tags = np.flatnonzero(pieces.owner == -1 - w) if w >= 0 else np.empty(0)
        inside = read_tag(pieces.text[int(tags[0])])[0] if len(tags) else ""
        self.possible = first >= 0 and inside not in _NO_TEXT

    # -- places ---------------------------------------------------------------------------------------

    def cluster(self, at: int) -> int:
        """Return the last place at or before ``at`` that splits no grapheme cluster and no entity."""
        if at >= self.length:
            return self.length
        low = max(0, at - _NEAR)
        found = low
        for m in _CLUSTER.finditer(self.text, low, min(len(self.text), at + _NEAR)):
            if m.end() > at:
                found = m.start()
                break
            found = m.end()
        if self.tagged:
            found = whole_entities(self.text, found)
        return found

    def next_cluster(self, at: int) -> int:
        """Return the first such place behind ``at``."""
        step = at + 1
        while step < self.length and self.cluster(step) <= at:
            step += 1
        return min(step, self.length)

    def word_end(self, at: int) -> int:
        """Return the last place at or before ``at`` that splits no word written between spaces; 0: none."""
        floor = self.breaks[bisect_right(self.breaks, at) - 1]
        while at > floor and not self.text[at - 1].isspace() and not self.text[at : at + 1].isspace():
            at -= 1
        return at

    def number_at(self, at: int) -> str:
        """The word with digits, such as ``1,234`` or ``item37``, that a cut would go through; "" for none."""
        word = _WORD.match(self.text, self.word_end(at))
        return word[0] if word is not None and word.end() > at and _DIGIT.search(word[0]) is not None else ""

    def sentence_end(self, at: int) -> int:
        """Return the last end of a sentence, a line or a block at or before ``at``; 0: none is near."""
        low = max(0, at - _SENTENCE)
        starts = sentence_starts(self.text[low : at + _NEAR])
        found = max((low + s for s in starts[1:] if low + s <= at), default=0)
        return max(found, self.breaks[bisect_right(self.breaks, at) - 1])

    def whole(self, at: int) -> bool:
        """Whether a cut at this place leaves nothing but white space behind."""
        return at >= self.length and not self.bare

    # -- the cut --------------------------------------------------------------------------------------

    def divide(self, at: int, *, exact: bool = True) -> Units | None:
        """Cut at a place in ``text``.

        Args:
            at: where, from 1 to ``length``.
            exact: whether ranges and places in the source are wanted; without them it is quicker.

        Returns:
            Units in which the first part takes the place of the unit and the rest is a new last unit, with
            the same score and never kept without the first; None where the source holds the words in another
            order, so that no range could tell what is kept.
        """
        units, pieces = self.units, self.units.pieces
        unit, rest = self.unit, len(self.units)
        last = next(p for p, t in zip(reversed(self.own), reversed(self.tag), strict=True) if not t)
        words = len(pieces.text[last].rstrip())
        # The unit's line end is what stands behind the first part as well.
        ends_line = not self.last and "\n" in pieces.text[last][words:]
        if at < self.length and self.text[at].isspace() and not ends_line:
            at += 1  # it keeps the last word apart from what follows
        n = int(np.searchsorted(self.ends, at))  # the piece that holds the last kept character
        first = self.own[n]
        inside = at - (self.ends[n - 1] if n else 0)
        owner = pieces.owner.copy()
        owner[owner == unit] = rest
        if self.bare:
            owner[first] = unit
        else:
            owner[self.own[: n + 1]] = unit
            owner[[self.own[end] for start, end in self.end_of.items() if start <= n < end]] = unit
        parts: dict[int, list[tuple[int, int, int]]] = {}  # piece -> (from, to, owner) in its text
        length = len(pieces.text[first])
        if inside < length:
            parts[first] = [(0, inside, unit), (inside, length, rest)]
        tail = -1  # where in the source the white space begins that ends the unit
        length = len(pieces.text[last])
        if words < length and not self.bare and (ends_line or not self.text[at - 1].isspace()):
            tail = int(pieces.src_end[last]) - (length - words)
            if last != first:
                parts[last] = [(0, words, rest), (words, length, unit)]
            elif inside < words:
                parts[last] = [(0, inside, unit), (inside, words, rest), (words, length, unit)]
        if exact:
            cut = int(pieces.src_end[first])
            if inside < len(pieces.text[first]):
                cut = int(pieces.src_start[first]) + self._places(first, [inside])[0]
            complete = self.only and at >= self.length
            ranges = self._ranges(cut, -1 if self.tagged else tail, complete=complete)
            if ranges is None:
                return None
            units = replace(units, range_start=ranges[0], range_owner=ranges[1], range_reason=ranges[2])
        wrapper = np.append(units.wrapper, units.wrapper[unit])
        wrapper[unit] = self.wrapper
        return replace(
            units,
            texts=[*units.texts, ""],
            context=[*units.context, units.context[unit]],
            cost=np.append(units.cost, 0),
            wrapper=wrapper,
            lead=np.append(units.lead, unit),
            level=None if units.level is None else np.append(units.level, 0),
            along=None if units.along is None else np.append(units.along, False),
            term=None if units.term is None else np.append(units.term, False),
            entry=None if units.entry is None else np.append(units.entry, False),
            pieces=self._pieces(owner, parts, first if self.bare else -1, exact=exact),
        )

    def _pieces(
        self, owner: IntArray, parts: dict[int, list[tuple[int, int, int]]], apart: int, *, exact: bool
    ) -> Pieces:
        """Columns of the pieces, some cut into parts; the words of piece ``apart`` get lines of their own."""
        pieces = self.units.pieces
        text, brief = list(pieces.text), None if pieces.brief is None else list(pieces.brief)
        times = np.ones(len(owner), dtype=np.int64)
        for p, cut in parts.items():
            times[p] = len(cut)
        rows = np.repeat(np.arange(len(owner)), times)
        owner, start, end = owner[rows], pieces.src_start[rows], pieces.src_end[rows]
        for p in sorted(parts, reverse=True):
            cut = parts[p]
            at = int(times[:p].sum())
            words = text[p]
            texts = [words[a:b] for a, b, _ in cut]
            if brief is not None:  # white space may be left out in it
                brief[p : p + 1] = texts if brief[p] == words else [brief[p], *[""] * (len(cut) - 1)]
            text[p : p + 1] = texts
            owner[at : at + len(cut)] = [part[2] for part in cut]
            if exact:
                places = [int(start[at]) + o for o in self._places(p, [b for _, b, _ in cut[:-1]])]
                end[at : at + len(cut) - 1] = places
                start[at + 1 : at + len(cut)] = places
        if apart >= 0:  # inline elements in front of it must not join their words with these
            text[apart] = f"\n{text[apart]}\n"
            if brief is not None:
                brief[apart] = text[apart]
        tag = None if pieces.tag is None else pieces.tag[rows]
        return replace(pieces, text=text, owner=owner, src_start=start, src_end=end, tag=tag, brief=brief)

    def _places(self, piece: int, offsets: list[int]) -> list[int]:
        """Where offsets in a piece's text stand in its source."""
        if not self.tagged:
            return offsets
        pieces = self.units.pieces
        a, b = int(pieces.src_start[piece]), int(pieces.src_end[piece])
        return source_offsets(self.units.document.text[a:b], pieces.text[piece], offsets)

    def _ranges(self, cut: int, tail: int, *, complete: bool) -> tuple[IntArray, IntArray, list[str]] | None:
        units, unit, rest = self.units, self.unit, len(self.units)
        stop = len(units.document.text)
        starts: list[int] = []
        owners: list[int] = []
        reasons: list[str] = []
        kept = gone = False
        bounds = [*units.range_start.tolist(), stop]
        for (a, b), owner, reason in zip(
            pairwise(bounds), units.range_owner.tolist(), units.range_reason, strict=True
        ):
            if owner != unit:
                row = [(a, owner)]
            else:
                row = [(a, unit)] if a < cut else [(a, rest)]
                if a < cut < b:
                    row.append((cut, rest))
                if max(a, cut) < tail < b:
                    row.append((tail, unit))
                kept, gone = kept or a < cut, gone or b > cut
            starts += [start for start, _ in row]
            owners += [o for _, o in row]
            reasons += [reason] * len(row)
        if not kept or not (gone or complete):
            return None
        return np.asarray(starts, dtype=np.int64), np.asarray(owners, dtype=np.int64), reasons
