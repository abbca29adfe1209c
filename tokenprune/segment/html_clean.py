"""Lossless cleaning of a page: HtmlRAG (arXiv 2411.02959, section 3.1), kept true to every visible word.

Out go scripts, styles, comments, attributes, elements without text, presentational inline tags, hidden
elements and wrappers that wrap a single element. What stays is a flat list of tags and texts in source order.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection
from typing import NamedTuple, TypeVar

from tokenprune.segment.html_attributes import kept_attributes
from tokenprune.segment.html_hidden import VISIBILITY
from tokenprune.segment.html_nesting import nested
from tokenprune.segment.html_page import BREAK, OPEN, TEXT, CleanPage, escape_text, word_count
from tokenprune.segment.html_reach import Reach, Unseen
from tokenprune.segment.html_repair import Events, repaired
from tokenprune.segment.html_settle import merged, settle_signs, unwrap
from tokenprune.segment.html_sheets import Rule, read_sheet
from tokenprune.segment.html_source import Source, scan
from tokenprune.segment.html_tags import (
    BLOCKS,
    CODE,
    ENDERS,
    INLINE,
    PRE,
    UNWRAPPED_BLOCKS,
    VOID,
)
from tokenprune.segment.html_unseen import NOTHING, Ranges, unseen
from tokenprune.segment.html_writer import Writer
from tokenprune.tokens import sanitize

# Elements nested deeper lose their tags (not their words), as browsers flatten them too: every block would
# have to pay for all the elements around it.
_MAX_DEPTH = 200

_SPACES = re.compile(r" [ \t\n\r\f]++|[\t\n\r\f][ \t\n\r\f]*+")
_NUL = "\0"  # is in no page: what is done to texts joined by it is done to each, at once


# What to do at a tag: nothing, as at most, but to note where it is, or to start or end an element, or both.
_IGNORED, _PASSES, _STARTS, _ENDS, _STANDS = range(5)
_NO_ROLES = (_PASSES, _IGNORED, _PASSES, _IGNORED)
_ROLES_OF_ALL = (_STARTS, _ENDS, _STANDS, _IGNORED)
_ROLES = {
    **dict.fromkeys(BLOCKS | INLINE | UNWRAPPED_BLOCKS, _ROLES_OF_ALL),
    **dict.fromkeys(("br", "hr", "img"), _ROLES_OF_ALL),
}
# In the stack of open tags, beside ``html_writer.ENDED``: a tag that is not in the output, a hidden element.
NOT_WRITTEN, _HIDDEN = -1, -3


class _Veil(NamedTuple):
    """An element whose own text is not seen."""

    depth: int
    begin: int
    shown: int  # texts and pictures in the output before it
    reason: str


class Cleaner(Writer):
    """Turns the events of a page into a `CleanPage`; subclasses may record more.

    Args:
        page: the page as it is written.
        reach: what of it is not seen.
        keep_attributes: lower-case names of attributes that stay.
        drop_hidden: whether characters in them that nobody sees go.
    """

    _records = False  # whether a subclass wants to be told of every tag

    def __init__(
        self, page: Source, reach: Reach, keep_attributes: Collection[str], drop_hidden: bool
    ) -> None:
        super().__init__()
        self.source = page
        self._keep = keep_attributes
        self._drop_hidden = drop_hidden
        self._tags, self._texts = reach
        self._hidden_from = -1
        self._hidden_why = ""
        self._ruled: Counter[Rule] = Counter()  # words that each rule of a style sheet hides
        self._unseen: Unseen | None = None  # why text here is not seen
        self._around: list[Unseen | None] = []  # the same right inside each open tag
        self._veils: list[_Veil] = []

    # -- events ---------------------------------------------------------------------------------------

    def run(self, events: Events, ranges: Ranges | None) -> CleanPage:
        """Clean a page.

        Args:
            events: its tags and texts.
            ranges: of tags, first and last, outside of which all is seen; None: not known.
        """
        source = self.source
        names, words, after, ends = source.names, source.words, source.after, source.ends
        texts = _NUL.join(events.text)
        folded = _SPACES.sub(" ", texts).split(_NUL)
        plain = texts.split(_NUL)
        roles = self._roles(events, ranges)
        seen = not (self._tags or self._texts)
        columns = zip(roles, events.code, events.mark, folded, plain, strict=True)
        for role, code, mark, text, verbatim in columns:
            if role <= _PASSES:
                pass
            elif role == _STARTS:
                self._start(names[code >> 2], mark)
            elif role == _ENDS:
                self._end(names[code >> 2])
            elif role == _STANDS:
                self._start(names[code >> 2], mark)
                if names[code >> 2] not in VOID:
                    self._text_end = self._cursor
                    self._end(names[code >> 2])
            if (words[mark] or role == _PASSES) and mark >= 0:
                self._cursor, self._text_end = after[mark], ends[mark]
                if not seen:
                    if role == _PASSES:
                        self._unhide(source.begin[mark])
                    self._unseen = self._texts.get(mark)
                    if self._unseen is None and self._hidden_from >= 0:
                        self._unhide(self._cursor)
            if not text:
                continue
            if self._unseen is not None:
                self._pass_over(text)
                continue
            if self._hidden_from >= 0 and not text.isspace():
                # libxml2 ended the hidden element before a text that was announced inside it.
                self._unhide(self._cursor)
            if self._pre or (self._code and (self._has_own() or not text.isspace())):
                self._write_space()
                self._write(escape_text(verbatim))
                continue
            if text[0] == " ":
                self._pending = self._pending or not self._space
                text = text[1:]
                if not text:
                    continue
            if self._pending:
                self._write_space()
            if text[-1] == " ":
                self._pending = True
                text = text[:-1]
            self._write(escape_text(text))
        self._finish()
        return self.page

    def _roles(self, events: Events, ranges: Ranges | None) -> list[int]:
        """What to do at each tag: one that is not written counts only where something is not seen."""
        if ranges is None or self._keep or self._records:
            return [_ROLES_OF_ALL[code & 3] for code in events.code]
        known = [role for name in self.source.names for role in _ROLES.get(name, _NO_ROLES)]
        roles = [known[code] for code in events.code]
        for first, last in ranges:
            for i in range(first + events.implied, last + events.implied + 1):
                roles[i] = _ROLES_OF_ALL[events.code[i] & 3]
        return roles

    def _start(self, tag: str, mark: int) -> None:
        """Write a start tag, or leave it out."""
        begin = self._cursor
        unseen = self._unseen
        if mark >= 0:
            source = self.source
            begin, self._cursor, self._text_end = source.begin[mark], source.after[mark], source.ends[mark]
            self._unseen, unseen = self._texts.get(mark), self._tags.get(mark)
        if unseen is not None and unseen.whole:
            self._hide(begin, unseen.reason)
            if tag not in VOID:
                self._push(_HIDDEN)
            return
        self._unhide(begin)
        kept = self._attributes(mark) if self._keep else ""
        if tag in VOID:
            self._void(tag, kept, begin)
            return
        self._veil(begin)
        block = tag in BLOCKS
        if self._depth >= _MAX_DEPTH or (tag in ENDERS and self._clashes(tag, begin)):
            self._push(NOT_WRITTEN)
            self._edge = self._edge or block
            return
        if block:
            if self._pending:
                self._emit(TEXT, self._inside, "\n", begin, begin)
                self._pending, self._space = False, True
        elif tag in INLINE or kept:
            self._write_space()
        else:
            self._push(NOT_WRITTEN)
            self._edge = self._edge or tag in UNWRAPPED_BLOCKS
            return
        page = self.page
        node = len(page.tag)
        page.tag.append(tag)
        page.parent.append(self._inside)
        page.alive.append(True)
        self._place.append(len(self._stack))
        self._opened.append(len(page.kind))
        self._kids.append(0)
        self._only.append(-1)
        self._enders.append(0)
        self._own.append(False)
        self._emit(OPEN, node, f"<{tag}{kept}>", begin, self._cursor)
        self._push(node)
        self._inside = node
        self._depth += 1
        self._pre += tag in PRE
        self._code += tag in CODE

    def _void(self, tag: str, kept: str, begin: int) -> None:
        """Write a line break or a picture."""
        veil = "" if self._unseen is None else self._unseen.reason
        if veil and (tag == "br" or veil == VISIBILITY):
            self._edge = self._edge or tag == "br"
        elif tag == "br" and not self._at_line_start():
            self._emit(BREAK, self._inside, "<br>", begin, self._cursor)
        elif tag == "img" and kept:
            self._write_space()
            self._emit(BREAK, self._inside, f"<img{kept}>", begin, self._cursor)
            self._space = False
            self._shown += 1
            self._mark_own()
        self._edge = self._edge or tag == "hr"

    def _end(self, tag: str) -> None:
        """Write an end tag and settle its element."""
        if not self._stack:
            return
        node = self._stack.pop()
        self._around.pop()
        self._unseen = self._around[-1] if self._around else None
        if self._veils and self._veils[-1].depth == len(self._stack):
            self._unveil()
        if node == _HIDDEN:
            return
        if node < 0:
            self._edge = self._edge or tag in UNWRAPPED_BLOCKS or tag in BLOCKS
        else:
            self._close(node, self._text_end)

    def _finish(self) -> None:
        """End the page."""
        self.page.bare = [*self._own, self._top]
        for node in self._broken:
            self.page.bare[node] = True
        if self._hidden_from >= 0:
            self.page.dropped.append((self._hidden_from, self._text_end, self._hidden_why))
        if self._mixed and (gone := unwrap(self.page, self._mixed, self._opened)):
            self._forget(gone)
        settle_signs(self.page, self._dangling)
        while self.page.kind and self.page.kind[-1] == TEXT and self.page.text[-1] == "\n":
            self.page.truncate(len(self.page.kind) - 1)
        self.page.dropped = merged(self.page.dropped, self.source.dropped)

    def overdone(self) -> set[Rule]:
        """Rules of style sheets to ignore: together the others hide no more than half of the words."""
        if not self._ruled:
            return set()
        hidden = self._ruled.total()
        total = hidden + sum(
            word_count(t) for k, t in zip(self.page.kind, self.page.text, strict=True) if k == TEXT
        )
        gone: set[Rule] = set()
        for rule, words in self._ruled.most_common():
            if 2 * hidden <= total:
                break
            gone.add(rule)
            hidden -= words
        return gone

    # -- what people do not see -----------------------------------------------------------------------

    def _veil(self, begin: int) -> None:
        """Meet a start tag behind which text is not seen, where the text around it is."""
        around = self._around[-1] if self._around else None
        if self._unseen is not None and not self._unseen.whole and around is None:
            self._veils.append(_Veil(len(self._stack), begin, self._shown, self._unseen.reason))

    def _unveil(self) -> None:
        """Leave such an element; if nothing in it is seen, it is gone as a whole."""
        veil = self._veils.pop()
        if self._shown == veil.shown:
            self._hide(veil.begin, veil.reason)

    def _hide(self, begin: int, reason: str) -> None:
        if self._hidden_from < 0 or begin <= self._hidden_from:
            self._hidden_from, self._hidden_why = begin, reason

    def _unhide(self, at: int) -> None:
        """Note what is hidden when the first thing behind a hidden element comes."""
        if self._hidden_from >= 0:
            self.page.dropped.append((self._hidden_from, max(at, self._hidden_from), self._hidden_why))
            self._hidden_from = -1

    def _push(self, node: int) -> None:
        self._stack.append(node)
        self._around.append(self._unseen)

    def _attributes(self, mark: int) -> str:
        written = self.source.attributes(mark) if mark >= 0 else ""
        return kept_attributes(written, self._keep, drop_hidden=self._drop_hidden) if written else ""

    def _has_own(self) -> bool:
        return self._inside >= 0 and self._own[self._inside]

    def _pass_over(self, text: str) -> None:
        """Leave out a text that is not seen."""
        unseen = self._unseen
        if unseen is None or text.isspace():
            return
        if unseen.rule is not None and (unseen.whole or unseen.reason == VISIBILITY):
            self._ruled[unseen.rule] += word_count(text)
        if unseen.whole:
            self._hide(self._cursor, unseen.reason)
        else:
            self._unhide(self._cursor)
            self.page.dropped.append((self._cursor, self._text_end, unseen.reason))


Reader = TypeVar("Reader", bound=Cleaner)


def read(source: str, keep_attributes: Collection[str], drop_hidden: bool, cleaner: type[Reader]) -> Reader:
    """Clean a page with a cleaner of this class and return the cleaner; any text is accepted.

    Once more without the rules of style sheets that turn out to hide too much (see `Cleaner.overdone`).
    """
    page = scan(sanitize(source), drop_hidden=drop_hidden)
    found = nested(page)
    events, nesting = found or (repaired(page), None)
    keep = frozenset(a.lower() for a in keep_attributes)
    sheet = read_sheet("\n".join(page.styles)) if drop_hidden and page.styles else None
    for left in (2, 1, 0):
        reach, ranges = unseen(page, sheet, nesting) if drop_hidden else (NOTHING, [])
        made = cleaner(page, reach, keep, drop_hidden)
        made.run(events, ranges)
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
    return read(source, keep_attributes, drop_hidden, Cleaner).page
