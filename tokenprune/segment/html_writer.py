"""The output of a cleaned page while it grows: white space, line breaks, and elements that need not stay."""

from __future__ import annotations

from bisect import bisect_left

from tokenprune.segment.html_page import BREAK, CLOSE, TEXT, CleanPage
from tokenprune.segment.html_settle import SIGNS
from tokenprune.segment.html_tags import (
    APART,
    CELLS,
    CODE,
    ENDED_BY,
    ENDED_BY_MASK,
    ENDERS,
    GENERIC,
    HEADINGS,
    PRE,
    STRUCTURAL,
)

# That a wrapper inside an element stays for the element's sake, beside the bits of ``ENDERS``.
_HELD = 1 << len(ENDERS)

ENDED = -2  # in the stack of open tags: an element that has ended already


class Writer:
    """Writes tags and texts, and settles each element when it closes."""

    def __init__(self) -> None:
        self.page = CleanPage()
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
        self._shown = 0  # texts and pictures in the output
        self._cursor = 0  # source offset of what comes next
        self._text_end = 0  # source offset where the text at the cursor ends
        self._space = True  # whether the output so far ends in white space, or is empty
        self._pending = False  # white space met and not written yet
        self._edge = False  # a block edge met that is not written: what follows starts a line
        self._dangling: list[int] = []  # texts that end in an escaped sign

    # -- tags and texts -------------------------------------------------------------------------------

    def _emit(self, kind: int, node: int, text: str, begin: int, after: int) -> None:
        page = self.page
        if kind == BREAK:
            self._broken.append(self._inside)
        page.kind.append(kind)
        page.node.append(node)
        page.text.append(text)
        page.begin.append(begin)
        page.after.append(after)

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
            self._stack[self._place[node]] = ENDED
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
