"""Lossless cleaning of a page: HtmlRAG (arXiv 2411.02959, section 3.1), kept true to every visible word.

Out go scripts, styles, comments, attributes, elements without text, presentational inline tags, hidden
elements and wrappers that wrap a single element. What stays is a flat list of tags and texts in source order.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Collection
from typing import NamedTuple, TypeVar

from tokenprune.segment.html_attributes import kept_attributes
from tokenprune.segment.html_hidden import VISIBILITY
from tokenprune.segment.html_nesting import nested
from tokenprune.segment.html_page import BREAK, CLOSE, OPEN, TEXT, CleanPage, escape_text, word_count
from tokenprune.segment.html_reach import Reach, Unseen
from tokenprune.segment.html_repair import Events, repaired
from tokenprune.segment.html_settle import SIGNS, merged, settle_signs, unwrap
from tokenprune.segment.html_sheets import Rule, read_sheet
from tokenprune.segment.html_source import Source, scan
from tokenprune.segment.html_tags import (
    APART,
    BLOCKS,
    CELLS,
    CODE,
    ENDED_BY,
    ENDED_BY_MASK,
    ENDERS,
    GENERIC,
    HEADINGS,
    INLINE,
    PRE,
    STRUCTURAL,
    UNWRAPPED_BLOCKS,
    VOID,
)
from tokenprune.segment.html_unseen import NOTHING, Ranges, unseen
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
# That a wrapper inside an element stays for the element's sake, beside the bits of ``ENDERS``.
_HELD = 1 << len(ENDERS)

# In the stack of open tags: a tag that is not in the output, an element that has ended already, a hidden one.
NOT_WRITTEN, _ENDED, _HIDDEN = -1, -2, -3


class _Veil(NamedTuple):
    """An element whose own text is not seen."""

    depth: int
    begin: int
    shown: int  # texts and pictures in the output before it
    reason: str


class Cleaner:
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
        self.page = CleanPage()
        self.source = page
        self._keep = keep_attributes
        self._drop_hidden = drop_hidden
        self._tags, self._texts = reach
        self._stack: list[int] = []  # element of each open tag, or one of the marks above
        self._place: list[int] = []  # where in the stack each element stands
        self._opened: list[int] = []  # event that opens each element
        self._kids: list[int] = []  # living block children of each element
        self._only: list[int] = []  # the last of them
        self._enders: list[int] = []  # which of them libxml2 takes for the end of other elements, as bits
        self._own: list[bool] = []  # whether an element holds text of its own
        self._top = False  # the same of the page
        self._broken: list[int] = []  # elements that hold a line break
        self._mixed: list[int] = []  # inline elements that hold a block
        self._inside = -1
        self._depth = 0  # of elements in the output
        self._pre = 0
        self._code = 0
        self._hidden_from = -1
        self._hidden_why = ""
        self._ruled: Counter[Rule] = Counter()  # words that each rule of a style sheet hides
        self._unseen: Unseen | None = None  # why text here is not seen
        self._around: list[Unseen | None] = []  # the same right inside each open tag
        self._veils: list[_Veil] = []
        self._shown = 0  # texts and pictures in the output
        self._cursor = 0  # source offset of what comes next
        self._text_end = 0  # source offset where the text at the cursor ends
        self._space = True  # whether the output so far ends in white space, or is empty
        self._pending = False  # white space met and not written yet
        self._edge = False  # a block edge met that is not written: what follows starts a line
        self._dangling: list[int] = []  # texts that end in an escaped sign

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

    def _close(self, node: int, at: int) -> None:
        tag = self.page.tag[node]
        self._inside = self.page.parent[node]
        self._depth -= 1
        self._pre -= tag in PRE
        self._code -= tag in CODE
        if self._own[node] or self._kids[node] or tag in CELLS:
            self._emit(CLOSE, node, f"</{tag}>", at, at)
            self._collapse(node)
        else:
            self._remove(node)

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

    # -- output ---------------------------------------------------------------------------------------

    def _emit(self, kind: int, node: int, text: str, begin: int, after: int) -> None:
        page = self.page
        if kind == BREAK:
            self._broken.append(self._inside)
        page.kind.append(kind)
        page.node.append(node)
        page.text.append(text)
        page.begin.append(begin)
        page.after.append(after)

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

    def _write_space(self) -> None:
        """Write the white space that is due, as a line end behind a block and as a space inside a line."""
        if self._pending:
            page = self.page
            line = bool(page.kind) and page.kind[-1] == CLOSE and page.tag[page.node[-1]] in APART
            at = page.after[-1] if page.after else 0
            self._emit(TEXT, self._inside, "\n" if line else " ", at, at)
            self._pending = self._edge = False

    def _write(self, text: str) -> None:
        if self._edge:
            # Words on both sides of something that is gone stood on lines of their own.
            if not self._space and not self._at_line_start():
                self._emit(BREAK, self._inside, "<br>", self._cursor, self._cursor)
            self._edge = False
        if text.endswith(SIGNS):
            self._dangling.append(len(self.page.kind))
        self._emit(TEXT, self._inside, text, self._cursor, self._text_end)
        self._space = False
        self._shown += 1
        self._mark_own()

    def _mark_own(self) -> None:
        if self._inside >= 0:
            self._own[self._inside] = True
        else:
            self._top = True

    def _at_line_start(self) -> bool:
        page = self.page
        if not page.kind or page.kind[-1] == BREAK:
            return True
        return page.kind[-1] != TEXT and page.tag[page.node[-1]] in APART

    # -- structure ------------------------------------------------------------------------------------

    def _clashes(self, tag: str, begin: int) -> bool:
        """Whether a block cannot stand right inside the elements around it, since their tags would end there.

        Inline tags that are gone held them apart. Elements that can end early do so here; where an element
        around says more than the block, the block's tags go.
        """
        page = self.page
        while self._inside >= 0 and tag in ENDED_BY.get(outer := page.tag[self._inside], ()):
            if tag in GENERIC or outer in PRE or (outer in HEADINGS and tag != "table"):
                return True
            node = self._inside
            self._stack[self._place[node]] = _ENDED
            self._close(node, begin)
        return False

    def _remove(self, node: int) -> None:
        """Take an element without words out again, with all it holds except a white space."""
        page, at = self.page, self._opened[node]
        page.alive[node] = False
        held = page.kind[at:]
        white = TEXT in held
        self._edge = self._edge or BREAK in held
        if at and not self._pre and page.kind[at - 1] == TEXT and page.text[at - 1] in (" ", "\n"):
            white, at = True, at - 1
        if white:
            self._space, self._pending = False, True
        page.truncate(at)
        self._edge = self._edge or page.tag[node] in APART

    def _collapse(self, node: int) -> None:
        """Settle a closed element: of a wrapper and the only element in it, one is enough.

        A wrapper stays where without it the tags of what it wraps would end the element around it.
        """
        page, tag, parent = self.page, self.page.tag[node], self.page.parent[node]
        around = page.tag[parent] if parent >= 0 else ""
        survivor, held = node, 0
        if tag in GENERIC:
            while page.tag[survivor] in GENERIC and self._wraps_one(survivor):
                if page.tag[self._only[survivor]] in ENDED_BY.get(around, ()):
                    held = _HELD
                    break
                page.alive[survivor] = False
                survivor = self._only[survivor]
        elif tag in STRUCTURAL:
            while self._wraps_one(node) and self._gives_way(self._only[node], tag):
                only = self._only[node]
                page.alive[only] = False
                self._kids[node], self._only[node] = self._kids[only], self._only[only]
                self._own[node], self._enders[node] = self._own[only], self._enders[only]
        if self._kids[node] and tag not in APART:
            self._mixed.append(node)
        if parent >= 0:
            if tag in GENERIC or tag in STRUCTURAL:
                self._kids[parent] += 1
                self._only[parent] = survivor
                self._enders[parent] |= ENDERS.get(page.tag[survivor], 0) | held
            else:
                self._own[parent] = True
        elif tag not in GENERIC and tag not in STRUCTURAL:
            self._top = True

    def _forget(self, gone: set[int]) -> None:
        """Take events out of the page."""
        page = self.page
        for column in (page.kind, page.node, page.text, page.begin, page.after):
            column[:] = [x for i, x in enumerate(column) if i not in gone]  # type: ignore[misc]
        lost = sorted(gone)
        self._dangling = [i - bisect_left(lost, i) for i in self._dangling]

    def _wraps_one(self, node: int) -> bool:
        return self._kids[node] == 1 and not self._own[node]

    def _gives_way(self, node: int, around: str) -> bool:
        """Whether the only element in a structural one may go: what it holds can stand there just so."""
        if self.page.tag[node] not in GENERIC and self.page.tag[node] != "p":
            return False
        held = self._enders[node] & _HELD and not self._wraps_one(node)
        return not held and not self._enders[node] & ENDED_BY_MASK.get(around, 0)


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
