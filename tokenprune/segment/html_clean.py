"""Lossless cleaning of a page: HtmlRAG (arXiv 2411.02959, section 3.1), kept true to every visible word.

Out go scripts, styles, comments, attributes, elements without text, presentational inline tags, hidden
elements and wrappers that wrap a single element. What stays is a flat list of tags and texts in source order.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from html import escape, unescape

from tokenprune.segment.html_source import NUMBER, Scan, Target, attributes, parse

# Elements that only group: one of them goes when it wraps a single element.
_GENERIC = frozenset(
    "div section article main header footer nav aside figure form fieldset address hgroup search details"
    " dialog dir menu".split()
)
_STRUCTURAL = frozenset(
    "title h1 h2 h3 h4 h5 h6 p pre textarea listing blockquote ul ol li dl dt dd table caption thead tbody"
    " tfoot tr td th figcaption legend summary select optgroup option".split()
)
# The only inline tags that carry meaning; the others (a, span, b, ...) only say how the page looks.
_INLINE = frozenset("code kbd samp sub sup del ins q".split())
# Blocks that say only how the page looks: their tags go, but words on both sides must not run together.
_UNWRAPPED_BLOCKS = frozenset(("center", "noscript", "body"))
# Cells stay when empty: the columns of a table depend on them.
_CELLS = frozenset(("td", "th"))
_VOID = frozenset(
    "area base basefont br col embed frame hr img input link meta param source track wbr".split()
)
_PRE = frozenset(("pre", "textarea", "listing"))

# Elements nested deeper lose their tags (not their words), as browsers flatten them too: every block would
# have to pay for all the elements around it.
_MAX_DEPTH = 200

_SPACES = re.compile(r"[ \t\n\r\f]+")
_AMPERSAND = re.compile(r"&(?=[a-zA-Z0-9#]|\Z)")
_LESS = re.compile(r"<(?=[a-zA-Z/!?]|\Z)")
_NONASCII_WORD = re.compile("[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")

OPEN, CLOSE, TEXT, BREAK = range(4)
Dropped = tuple[int, int, str]  # start, end, reason


def word_count(text: str) -> int:
    """Count words; of scripts without spaces, one per two characters; of a long blob, one per ten."""
    words = text.split()
    count = len(words)
    if len(text) > 10 * count or not text.isascii():
        count = max(count, len(_NONASCII_WORD.findall(text)) // 2, len(text) // 25)
    return count


@dataclass
class CleanPage:
    """A cleaned page as a flat list of events in source order.

    Attributes:
        kind: OPEN, CLOSE, TEXT or BREAK (a ``<br>``) of each event.
        node: the element an event opens or closes; for the others the element around it.
        text: output of each event: a tag, or escaped text.
        begin: where the event's source starts; ascending.
        after: where it ends.
        tag: name of each element.
        parent: element around each element, -1 at the top.
        alive: whether an element's tags are in the output.
        bare: whether an element holds words, line breaks or inline elements of its own; the last is the top
            of the page.
        dropped: (start, end, reason) of source ranges that are not in the output, ascending.
    """

    kind: list[int] = field(default_factory=list)
    node: list[int] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    begin: list[int] = field(default_factory=list)
    after: list[int] = field(default_factory=list)
    tag: list[str] = field(default_factory=list)
    parent: list[int] = field(default_factory=list)
    alive: list[bool] = field(default_factory=list)
    bare: list[bool] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)

    def truncate(self, at: int) -> None:
        """Forget all events from ``at`` on."""
        for column in (self.kind, self.node, self.text, self.begin, self.after):
            del column[at:]


def escape_text(text: str) -> str:
    """Escape only what would read as markup: fewer tokens than escaping every sign, and it parses back."""
    if "&" in text:
        text = _AMPERSAND.sub("&amp;", text)
    return _LESS.sub("&lt;", text) if "<" in text else text


def is_inline(tag: str) -> bool:
    """Whether an element sits inside a line of text."""
    return tag in _INLINE


class Cleaner(Target):
    """Turns the events of a page into a `CleanPage`; subclasses may record more."""

    scan: Scan

    def __init__(self, keep_attributes: Collection[str]) -> None:
        self.page = CleanPage()
        self._keep = frozenset(a.lower() for a in keep_attributes)
        self._stack: list[int] = []  # element of each open tag; -1 for one that is not in the output
        self._opened: list[int] = []  # event that opens each element
        self._kids: list[int] = []  # living block children of each element
        self._only: list[int] = []  # the last of them
        self._own: list[bool] = []  # whether an element holds text of its own
        self._top = False  # the same of the page
        self._broken: list[int] = []  # elements that hold a line break
        self._inside = -1
        self._depth = 0  # of elements in the output
        self._pre = 0
        self._hidden = 0  # depth below a hidden element
        self._hidden_from = -1
        self._cursor = 0  # source offset of what comes next
        self._text_end = 0  # source offset where the text at the cursor ends
        self._text: list[str] = []
        self._space = True  # whether the output so far ends in white space, or is empty
        self._pending = False  # white space met and not written yet
        self._edge = False  # a block edge met that is not written: what follows starts a line

    # -- events from libxml2 --------------------------------------------------------------------------

    def start(self, tag: str, attrs: Mapping[str, str]) -> None:
        """Write a start tag, or leave it out."""
        self._flush()
        number = attrs.get(NUMBER)
        mark = -1 if number is None else int(number)
        begin = self._goto(mark) if mark >= 0 else self._cursor
        if self._hidden:
            self._hidden += 1
            return
        if mark in self.scan.hidden and tag not in _VOID:
            self._hidden, self._hidden_from = 1, begin
            return
        kept = self._attributes(mark)
        if tag in _VOID:
            if tag == "br" and not self._at_line_start():
                self._emit(BREAK, self._inside, "<br>", begin, self._cursor)
            elif tag == "img" and kept:
                self._write_space()
                self._emit(BREAK, self._inside, f"<img{kept}>", begin, self._cursor)
                self._space = False
                self._mark_own()
            self._edge = self._edge or tag == "hr"
            return
        block = tag in _GENERIC or tag in _STRUCTURAL
        if self._depth >= _MAX_DEPTH:
            self._stack.append(-1)
            self._edge = self._edge or block
            return
        if block:
            if self._pending:
                self._emit(TEXT, self._inside, "\n", begin, begin)
                self._pending, self._space = False, True
        elif tag in _INLINE or kept:
            self._write_space()
        else:
            self._stack.append(-1)
            self._edge = self._edge or tag in _UNWRAPPED_BLOCKS
            return
        page = self.page
        node = len(page.tag)
        page.tag.append(tag)
        page.parent.append(self._inside)
        page.alive.append(True)
        self._opened.append(len(page.kind))
        self._kids.append(0)
        self._only.append(-1)
        self._own.append(False)
        self._emit(OPEN, node, f"<{tag}{kept}>", begin, self._cursor)
        self._stack.append(node)
        self._inside = node
        self._depth += 1
        self._pre += tag in _PRE

    def end(self, tag: str) -> None:
        """Write an end tag and settle its element."""
        self._flush()
        if self._hidden:
            self._hidden -= 1
            return
        if tag in _VOID or not self._stack:
            return
        node = self._stack.pop()
        if node < 0:
            self._edge = self._edge or tag in _UNWRAPPED_BLOCKS
            return
        self._inside = self.page.parent[node]
        self._depth -= 1
        self._pre -= tag in _PRE
        if self._own[node] or self._kids[node] or tag in _CELLS:
            self._emit(CLOSE, node, f"</{tag}>", self._text_end, self._text_end)
            self._collapse(node)
        else:
            self._remove(node)

    def data(self, text: str) -> None:
        """Collect text."""
        self._text.append(text)

    def comment(self, text: str) -> None:
        """Move to the text run of this number."""
        self._flush()
        self._goto(int(text))

    def close(self) -> None:
        """End the page."""
        self._flush()
        self.page.bare = [*self._own, self._top]
        for node in self._broken:
            self.page.bare[node] = True
        if self._hidden_from >= 0:
            self.page.dropped.append((self._hidden_from, self._text_end, "hidden"))
        while self.page.kind and self.page.kind[-1] == TEXT and self.page.text[-1] == "\n":
            self.page.truncate(len(self.page.kind) - 1)

    def settle(self) -> CleanPage:
        """Return the page, once it has been parsed."""
        self.page.dropped = _merge(self.page.dropped, self.scan.dropped)
        return self.page

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

    def _goto(self, mark: int) -> int:
        """Move the cursor to a numbered place; return where that place begins."""
        begin = self.scan.begin[mark]
        self._cursor, self._text_end = self.scan.text[mark], self.scan.end[mark]
        if self._hidden_from >= 0 and not self._hidden:  # the first thing behind a hidden element
            self.page.dropped.append((self._hidden_from, begin, "hidden"))
            self._hidden_from = -1
        return begin

    def _attributes(self, mark: int) -> str:
        if not self._keep or mark not in self.scan.attrs:
            return ""
        found = attributes(self.scan.attrs[mark])
        return "".join(f' {k}="{escape(unescape(v))}"' for k, v in found.items() if k in self._keep)

    def _flush(self) -> None:
        if not self._text:
            return
        text = "".join(self._text)
        self._text.clear()
        if self._hidden:
            return
        if self._pre:
            self._write_space()
            self._write(escape_text(text))
            return
        folded = _SPACES.sub(" ", text)
        if folded[0] == " ":
            self._pending = self._pending or not self._space
            folded = folded[1:]
        if not folded:
            return
        self._write_space()
        self._pending = folded[-1] == " "
        folded = escape_text(folded)
        self._write(folded[:-1] if self._pending else folded)

    def _write_space(self) -> None:
        """Write the white space that is due, as a line end behind a block and as a space inside a line."""
        if self._pending:
            page = self.page
            line = bool(page.kind) and page.kind[-1] == CLOSE and page.tag[page.node[-1]] not in _INLINE
            at = page.after[-1] if page.after else 0
            self._emit(TEXT, self._inside, "\n" if line else " ", at, at)
            self._pending = self._edge = False

    def _write(self, text: str) -> None:
        if self._edge:
            # Words on both sides of something that is gone stood on lines of their own.
            if not self._space and not self._at_line_start():
                self._emit(BREAK, self._inside, "<br>", self._cursor, self._cursor)
            self._edge = False
        self._emit(TEXT, self._inside, text, self._cursor, self._text_end)
        self._space = False
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
        return page.kind[-1] != TEXT and page.tag[page.node[-1]] not in _INLINE

    # -- structure ------------------------------------------------------------------------------------

    def _remove(self, node: int) -> None:
        """Take an element without words out again, with all it holds except a white space."""
        page, at = self.page, self._opened[node]
        page.alive[node] = False
        white = TEXT in page.kind[at:]
        if at and not self._pre and page.kind[at - 1] == TEXT and page.text[at - 1].isspace():
            white, at = True, at - 1
        if white:
            self._space, self._pending = False, True
        page.truncate(at)
        self._edge = self._edge or page.tag[node] not in _INLINE

    def _collapse(self, node: int) -> None:
        """Settle a closed element: of a wrapper and the only element in it, one is enough."""
        page, tag, parent = self.page, self.page.tag[node], self.page.parent[node]
        survivor, only = node, self._only[node]
        if self._kids[node] == 1 and not self._own[node]:
            if tag in _GENERIC:
                page.alive[node] = False
                survivor = only
            elif page.tag[only] in _GENERIC or page.tag[only] == "p":
                page.alive[only] = False
        if parent >= 0:
            if tag in _GENERIC or tag in _STRUCTURAL:
                self._kids[parent] += 1
                self._only[parent] = survivor
            else:
                self._own[parent] = True
        elif tag not in _GENERIC and tag not in _STRUCTURAL:
            self._top = True


def clean(source: str, keep_attributes: Collection[str] = ()) -> CleanPage:
    """Clean a page.

    Args:
        source: any text; it need not be well formed, nor HTML.
        keep_attributes: names of attributes that stay (``href``, ``alt``, ``colspan``, ...).
    """
    cleaner = Cleaner(keep_attributes)
    parse(source, cleaner)
    return cleaner.settle()


def _merge(hidden: list[Dropped], other: list[Dropped]) -> list[Dropped]:
    """Merge two ascending lists of ranges; what lies inside a hidden range is part of it."""
    merged: list[Dropped] = []
    end = 0
    for gone in sorted([*hidden, *other], key=lambda d: (d[0], -d[1])):
        if gone[0] >= end:
            merged.append(gone)
            end = gone[1]
    return merged
