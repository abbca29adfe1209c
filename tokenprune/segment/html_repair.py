"""Pages whose tags do not nest, as libxml2 repairs them.

libxml2 forgets offsets. So each start tag is replaced by one that carries only its number, and text that does
not follow a start tag gets a comment with its number. libxml2 then reports repaired events in source order,
and every event can be traced back. Comments, attributes and raw-text elements of the page never reach
libxml2, so a page cannot forge a number.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from html import escape
from typing import Any, cast

import numpy as np
from lxml import etree

from tokenprune.arrays import IntArray
from tokenprune.points import NUL, listed
from tokenprune.segment.html_names import codes_among
from tokenprune.segment.html_open import SPECIAL
from tokenprune.segment.html_source import CLOSES, ENDED, NO_TAG, OPENS, WHITE, Source
from tokenprune.segment.html_tags import VOID

NUMBER = "tp-n"
_WRITTEN = re.compile(r"/?([^\s/>]++)")
_MISPLACED = frozenset(("html", "head", "body", "frameset"))
_AS_PRE = frozenset(("xmp", "plaintext"))
TERMS = ("dd", "dt")
_THROUGH = ("address", "p")  # a div as well, but out of that libxml2 lets nothing end


@dataclass
class Events:
    """Tags in the order of the page, nested; behind each one its text, with entities decoded.

    Attributes:
        codes: int64 [n], as in `Source`.
        marks: int64 [n], the tag of the source that each one is, -1 for an implied one and for libxml2's end
            tags.
        joined: what stands behind each, NUL between the texts.
        implied: how many tags stand between tags 0 and 1 of a page whose other tags are as in the source.
    """

    codes: IntArray
    marks: IntArray
    joined: str
    implied: int = 0

    @cached_property
    def code(self) -> list[int]:
        """The codes as a list."""
        return listed(self.codes)

    @cached_property
    def mark(self) -> list[int]:
        """The marks as a list."""
        return listed(self.marks)

    @cached_property
    def text(self) -> list[str]:
        """The texts."""
        return self.joined.split(NUL)


def owns_text(page: Source, k: int) -> bool:
    """Whether the text behind a tag stands in its element, or right behind a void one.

    libxml2 ignores a misplaced ``<body>`` or the like, and ends what has a slash at once (which browsers do
    not): then the text behind it needs its own number.
    """
    kind, name = page.code[k] & 3, page.names[page.code[k] >> 2]
    if kind == OPENS:
        return name not in _MISPLACED
    return kind == ENDED and name in VOID


def _terms_to_end(page: Source) -> dict[int, str]:
    """Which start tags end a ``<dd>`` or ``<dt>`` of the same name or through a paragraph: tag -> that name.

    So says the HTML standard (section 13.2.6.4.7); libxml2 puts a meaning into the one before it.
    """
    names = page.names
    terms = {4 * place + OPENS for place, name in enumerate(names) if name in TERMS}
    if np.count_nonzero(codes_among(page.codes, terms)) < 2:
        return {}
    special = [place for place, name in enumerate(names) if name in SPECIAL and name not in VOID]
    tags = codes_among(page.codes, [4 * place + kind for place in special for kind in (OPENS, CLOSES)])
    found: dict[int, str] = {}
    stack: list[tuple[str, int]] = []  # open elements, each with the place of the term that ends in it, or -1
    often: Counter[str] = Counter()
    for k in np.flatnonzero(tags).tolist():
        name, at = names[page.code[k] >> 2], -1
        inner = stack[-1][1] if stack else -1
        if page.code[k] & 3 == CLOSES:
            at = len(stack) - 1 if often[name] else len(stack)
            while at < len(stack) and stack[at][0] != name:
                at -= 1
        elif name in TERMS and inner >= 0:
            at, found[k] = inner, stack[inner][0]
        else:
            at = len(stack)
        often.subtract(gone for gone, _ in stack[at:])
        del stack[at:]
        if page.code[k] & 3 == OPENS:
            stack.append((name, at if name in TERMS else inner if name in _THROUGH else -1))
            often[name] += 1
    return found


def marked(page: Source) -> str:
    """Write a page as libxml2 reads it."""
    parts: list[str] = []
    add, names, ended = parts.append, page.names, _terms_to_end(page)
    for k, (code, tag, text) in enumerate(zip(page.code, page.tag, page.text, strict=True)):
        kind, name = code & 3, names[code >> 2]
        if k in ended:
            add(f"</{ended[k]}>")
        if kind != NO_TAG:
            written = cast("re.Match[str]", _WRITTEN.match(tag))[1]
            if kind != CLOSES:
                # libxml2 takes some void elements (wbr, source) for others: a slash ends those as well.
                slash = "/" if kind == ENDED else ""
                add(f"<{'pre' if name in _AS_PRE else written} {NUMBER}={k} {slash}>")
            else:
                raw = name in _AS_PRE and page.code[k - 1] == code - CLOSES
                add(f"</{'pre' if raw else written}>")
        if page.words[k] and not owns_text(page, k):
            add(f"<!--{k}-->")
        if k in page.verbatim:
            text = escape(text, quote=False)
        add(text.replace("<", "&lt;") if k == page.cut else text)
    return "".join(parts)


class _Recorder:
    """Target of lxml's parser that keeps what it is told."""

    def __init__(self, page: Source) -> None:
        self.codes, self.marks, self.texts = [NO_TAG], [-1], list[str]()
        self._page, self._ended = page, False
        self._names, self._places = page.names, {name: place for place, name in enumerate(page.names)}
        self._text: list[str] = []

    def _add(self, code: int, mark: int) -> None:
        self.texts.append("".join(self._text))
        self._text.clear()
        self.codes.append(code)
        self.marks.append(mark)

    def _code(self, tag: str) -> int:
        place = self._places.get(tag)
        if place is None:
            place = self._places[tag] = len(self._names)
            self._names.append(tag)
        return 4 * place

    def start(self, tag: str, attrs: Mapping[str, str]) -> None:
        mark = int(attrs.get(NUMBER, -1))
        self._ended = tag in VOID or (mark >= 0 and self._page.code[mark] & 3 == ENDED)
        self._add(self._code(tag) + (ENDED if self._ended else OPENS), mark)

    def end(self, tag: str) -> None:
        if not self._ended:  # else it comes at once, and its start has said so
            self._add(self._code(tag) + CLOSES, -1)
        self._ended = False

    def data(self, text: str) -> None:
        self._text.append(text)

    def comment(self, text: str) -> None:
        self._add(NO_TAG, int(text))

    def close(self) -> None:
        self.texts.append("".join(self._text))


def repaired(page: Source) -> Events:
    """Let libxml2 repair a page."""
    source = marked(page)
    recorder = _Recorder(page)
    if source.strip(WHITE):
        # The stubs ask for methods that also take bytes; lxml sends str to a parser fed with markup.
        parser = etree.HTMLParser(target=cast(Any, recorder), huge_tree=True, encoding="utf-8")
        parser.feed(source.encode())
        parser.close()
    else:
        recorder.close()
    codes, marks = (np.asarray(c, dtype=np.int64) for c in (recorder.codes, recorder.marks))
    return Events(codes, marks, NUL.join(recorder.texts))
