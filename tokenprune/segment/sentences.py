"""Sentences of plain text with exact offsets, safe for code, lists and tables."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from sentencex import get_sentence_boundaries

from tokenprune.arrays import IntArray
from tokenprune.document import Document
from tokenprune.segment.text_structure import heading_levels, text_leads
from tokenprune.segment.word_breaks import cut_before, outside_words
from tokenprune.tokens import TokenCounter, counts_between, sanitize
from tokenprune.units import Units

_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_NUMBERED = r"\(?(?:\d{1,3}|[a-zA-Z]|[ivxIVX]{1,4})[.)]"
_LIST_ITEM = re.compile(rf"\s*(?:[-*+\u2022\u25e6\u2043\u2013]|{_NUMBERED})\s+\S")
_HEADING = re.compile(r" {0,3}#{1,6}\s|\s*[=\-~^*]{3,}\s*$")
_TABLE_ROW = re.compile(r"\s*\|.*\|\s*$")
_CODE_LINE = re.compile(r"(?: {4}|\t)\s*\S")
_STARTS_LOWER = re.compile(r"\s*[a-z(\u00df-\u00f6\u00f8-\u00ff]")
_ENDS_SENTENCE = re.compile(r"[.!?:;\u3002\uff01\uff1f\u2026][\"'\u201d\u2019)\]\u300d\u300f]*\s*$")
_LIST_MARK_ONLY = re.compile(rf"\s*(?:{_NUMBERED}|[-*+\u2022])\s*$")
_LONGEST_MARK = 40  # characters of a list mark with the white space around it

# sentencex takes time with the square of a paragraph: half an hour for a book in a script without spaces. A
# longer one is given to it in parts of about so many characters, cut where a sentence certainly ends.
_PART = 5000
# Where none certainly ends, between paragraphs or, in one without an end to be seen, between words.
_LONGEST = 40_000
_SURE_END = re.compile(
    "[\u3002\uff01\uff1f](?![\u3002\uff01\uff1f\u2026\u300b\u300d\u300f\uff09\u201d\u2019\"')\\]])\\s*"
)

_ENDS_BLOCK = ("blank", "heading", "table")  # kinds of lines after which text starts anew

# A line this long that does not end a sentence was wrapped by its author's editor, not ended.
_WRAPPED = 50
_JAPANESE = re.compile("[\u3040-\u30ff]")
_CHINESE = re.compile("[\u4e00-\u9fff]")


def language_of(text: str) -> str:
    """Guess what sentence rules to use: Japanese, Chinese or (for all else) English abbreviations."""
    sample = text[:2000]
    if _JAPANESE.search(sample):
        return "ja"
    return "zh" if _CHINESE.search(sample) else "en"


def _lines(text: str) -> list[tuple[int, int]]:
    """Start and end of each line, line feed included."""
    spans, at = [], 0
    for line in text.split("\n"):
        end = min(len(text), at + len(line) + 1)
        if end > at:
            spans.append((at, end))
        at = end
    return spans


def _structure(text: str) -> tuple[set[int], list[tuple[int, int]], list[int]]:
    """Read the lines of a text.

    Returns:
        forced: offsets where a unit must start.
        solid: ranges inside which no sentence ends (code, table rows), ascending.
        soft: offsets of line feeds that only wrap a line.
    """
    forced: set[int] = set()
    solid: list[tuple[int, int]] = []
    soft: list[int] = []
    fence = ""
    code_from = -1
    previous = ""  # the line before
    before = ""  # what kind of line it was: "", "blank", "text", "item", "code", "fence", "table"
    for a, b in _lines(text):
        line = text[a:b].rstrip("\n")
        if fence:
            if line.strip().startswith(fence) and not line.strip().strip(fence[0]):
                solid.append((code_from, b))
                forced.add(b)
                fence, code_from, before = "", -1, "fence"
            previous = line
            continue
        opened = _FENCE.match(line)
        if opened:
            fence, code_from = opened[1], a
            forced.add(a)
            previous = line
            continue
        stripped = line.strip()
        if not stripped:
            kind = "code" if before == "code" else "blank"
        elif _CODE_LINE.match(line) and before in ("blank", "code", ""):
            kind = "code"
        elif _HEADING.match(line):
            kind = "heading"
        elif _TABLE_ROW.match(line):
            kind = "table"
        elif _LIST_ITEM.match(line):
            kind = "item"
        else:
            kind = "text"
        if kind == "table":
            solid.append((a, b))
        if kind == "code" and before != "code":
            forced.add(a)
            code_from = a
        elif kind != "code" and before == "code":
            solid.append((code_from, a))
            forced.add(a)
            code_from = -1
        elif kind in ("heading", "table", "item") or (kind == "text" and before in _ENDS_BLOCK):
            forced.add(a)
        elif kind == "text" and before in ("text", "item") and a:
            wide = len(previous.strip())
            ended = _ENDS_SENTENCE.search(previous) is not None
            indented = line[:1] in " \t"
            if not ended and not (indented and before == "text"):
                wrapped = wide >= (_WRAPPED // 2 if _STARTS_LOWER.match(line) else _WRAPPED)
                if wrapped or (before == "item" and indented):
                    soft.append(a - 1)
                else:
                    forced.add(a)
            elif indented and before == "text":
                forced.add(a)
        previous, before = line, kind
    if code_from >= 0:
        solid.append((code_from, len(text)))
    return forced, solid, soft


def sentence_starts(text: str, language: str | None = None) -> list[int]:
    """Return where each sentence starts: ascending, from 0, so that the slices cover the text.

    White space behind a sentence belongs to it. A fenced or indented code block, a list item, a heading and
    a table row are units of their own; a wrapped line is not an end.

    Args:
        text: any text.
        language: BCP-47 code for sentencex; None guesses.
    """
    if not text:
        return []
    safe = sanitize(text)
    forced, solid, soft = _structure(safe)
    if soft:
        joined = list(safe)
        for i in soft:
            joined[i] = " "
        safe = "".join(joined)
    code = language or language_of(safe)
    found = {outside_words(safe, start) for start in _boundaries(code, safe)} - {-1}
    starts = sorted(found | forced | {0})
    kept: list[int] = []
    region = 0
    blank, previous = True, 0  # whether there is only white space since the last start, as far as `previous`
    for s in starts:
        if s >= len(text):
            break
        while region < len(solid) and solid[region][1] <= s:
            region += 1
        if region < len(solid) and solid[region][0] < s:
            continue
        if kept:
            blank = blank and not safe[previous:s].strip()
            previous = s
            if blank:
                if kept[-1] == 0:
                    continue  # leading white space goes with the first sentence
                kept.pop()  # a blank stretch goes with the sentence before it
                if kept and s not in forced and _is_mark(safe, kept[-1], s):
                    blank = False
                    continue
            elif s not in forced and _is_mark(safe, kept[-1], s):
                continue  # "1. " is not a sentence
        kept.append(s)
        blank, previous = True, s
    if len(kept) > 1 and not safe[kept[-1] :].strip():
        kept.pop()
    return kept


def _boundaries(code: str, text: str) -> Iterator[int]:
    """Where sentencex sees sentences start."""
    at, begins = 0, True
    while at < len(text):
        sure = _SURE_END.search(text, at + _PART, at + _LONGEST)
        end, ends = sure.end() if sure else len(text), True
        if not sure and end - at > _LONGEST:
            end, ends = _paragraph_end(text, at, at + _LONGEST)
        for boundary in get_sentence_boundaries(code, text[at:end]):
            start = int(boundary["start_index"])
            if start or begins:
                yield at + start
        at, begins = end, ends


def _paragraph_end(text: str, start: int, stop: int) -> tuple[int, bool]:
    """The last place in ``[start, stop)`` to cut at, and whether a sentence ends there."""
    gap = text.rfind("\n\n", start, stop)
    if gap > start:
        return gap + 2, True
    space = text.rfind(" ", start, stop)
    return (space + 1 if space > start else stop), False


def _is_mark(text: str, start: int, end: int) -> bool:
    return end - start < _LONGEST_MARK and _LIST_MARK_ONLY.match(text[start:end]) is not None


# Tokens: a sentence of so many is not cut, however small a budget is. Parts are chosen each for itself, and
# those of two sentences would stand side by side: "It costs" and "20 euro".
A_SENTENCE = 64


def split_long(
    text: str, starts: list[int], max_characters: int, reach: Callable[[int], int] | None = None
) -> list[int]:
    """Cut slices longer than ``max_characters`` at a line end, else a clause end or between words.

    Args:
        text: any text.
        starts: where its slices start; ascending, from 0.
        max_characters: of a slice; white space at its end comes on top.
        reach: offset of a word -> how far it may reach to stay whole; None: a word of more than
            ``max_characters`` is cut.
    """
    out: list[int] = []
    for a, b in pairwise([*starts, len(text)]):
        out.append(a)
        while b - a > max_characters:
            high = a + max_characters
            a = cut_before(text, a, high, reach)
            if a >= b:
                break
            out.append(a)
    return out


def split_costly(text: str, starts: list[int], max_tokens: int, places: IntArray) -> list[int]:
    """Cut slices of more than ``max_tokens`` tokens into parts of about half of that; words stay whole.

    Args:
        text: any text.
        starts: where its slices start; ascending, from 0.
        max_tokens: of a slice; a word of more is cut.
        places: int64 [tokens], where the tokens of the text start; ascending.
    """
    while True:
        finer = _split_costly_once(text, starts, max_tokens, places)
        if len(finer) == len(starts):
            return finer
        starts = finer  # tokens may stand closer in some of the parts than in others


def _split_costly_once(text: str, starts: list[int], max_tokens: int, places: IntArray) -> list[int]:
    bounds = np.asarray([*starts, len(text)], dtype=np.int64)
    out: list[int] = []
    tokens = counts_between(places, bounds).tolist()
    for (a, b), count in zip(pairwise(bounds.tolist()), tokens, strict=True):
        if count <= max_tokens:
            out.append(a)
        else:

            def reach(at: int, a: int = a, b: int = b) -> int:
                last = int(np.searchsorted(places, a + at)) + max_tokens
                return min(b, int(places[last]) if last < len(places) else b) - a

            size = max(4, max_tokens * (b - a) // (2 * count))
            out += [a + start for start in split_long(text[a:b], [0], size, reach)]
    return out


@dataclass(frozen=True)
class Sentences:
    """Segmenter: one unit per sentence, list item, table row or code block.

    Args:
        max_characters: a longer sentence (or code block) is cut, so that no unit alone eats a budget.
        max_tokens: a unit of more tokens is cut into parts of about half as many; others stay whole.
    """

    max_characters: int = 1000
    max_tokens: int | None = None

    def segment(self, document: Document, counter: TokenCounter) -> Units:
        """Cut a text into sentences; ``metadata["language"]`` names the language if it is known."""
        language = document.metadata.get("language")
        text = document.text
        starts = sentence_starts(text, str(language) if language else None)
        starts = split_long(text, starts, self.max_characters)
        if self.max_tokens is not None and text:
            starts = split_costly(text, starts, self.max_tokens, counter.starts(text))
        units = Units.from_starts(document, starts, counter, text_leads)
        levels = heading_levels(units.texts)
        units.level = np.asarray(levels, dtype=np.int64) if any(levels) else None
        return units

    def finer(self, max_tokens: int) -> Sentences:
        """Return a segmenter for a budget of ``max_tokens``: no unit has more, but for short sentences."""
        return replace(self, max_tokens=max(A_SENTENCE, max_tokens))
