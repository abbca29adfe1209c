"""The inline content of one block on its way to Markdown."""

from __future__ import annotations

import re
from html import unescape
from typing import NamedTuple

from tokenprune.render.markdown_escape import (
    BREAK,
    CODE,
    LINKED,
    LITERAL,
    MARK,
    code_marks,
    destination,
    escape,
)
from tokenprune.render.scripts import WHITE, Formulas, script
from tokenprune.segment.html_tags import tag_attributes

SPACES = re.compile(r"[ \t\n\r\f]+")
_LINE_ENDS = re.compile(r"\r\n?|\n")


class Part(NamedTuple):
    """A stretch of a line and the piece it was made of."""

    text: str
    piece: int
    kind: int


class _Mark(NamedTuple):
    """An open sub, sup or del: its part (-1: it will not be written) and what stands before it."""

    part: int
    before: str


class Line:
    """Collects inline content, piece by piece, and gives it out as Markdown.

    Attributes:
        tail: the last character so far; "" at the start.
        last: the piece read last, kept up to date by the caller: where pieces between it and the next are
            missing, something was dropped, and words on both sides must not run together.
    """

    def __init__(self) -> None:
        self.tail = ""
        self.last = -2
        self._text: list[str] = []
        self._piece: list[int] = []
        self._kind: list[int] = []
        self._code = -1  # the part that opens a code span
        self._code_depth = 0
        self._content = 0  # the first part of the open <code>
        self._spans: list[tuple[int, int]] = []  # parts that open and close each code span
        self._link: tuple[int, str] | None = None
        self._carried = ""  # where an open <a> leads that a block in it cut off before its first word
        self._anchors: list[bool] = []  # of open <a>, whether it is the link
        self._marks: list[_Mark] = []
        self._formulas = Formulas(lambda: self._text, lambda text, i: self._add(text, i, self._words()))

    def _add(self, text: str, piece: int, kind: int) -> int:
        self._text.append(text)
        self._piece.append(piece)
        self._kind.append(kind)
        if text:
            self.tail = text[-1]
        return len(self._text) - 1

    def _words(self) -> int:
        """The kind of words written now."""
        return CODE if self._code >= 0 else LITERAL if self._link is None else LINKED

    def _gap(self, i: int) -> None:
        if i > self.last + 1 and self.tail and self.tail not in WHITE:
            self._add(" ", i, CODE if self._code >= 0 else MARK)

    # -- words and white space ------------------------------------------------------------------------

    def words(self, i: int, piece: str) -> None:
        """Add a piece of text whose white space is folded."""
        if "&" in piece:
            piece = unescape(piece)
        if self._code >= 0:
            self._gap(i)
            piece = _LINE_ENDS.sub(" ", piece)
        elif not self.tail or self.tail in WHITE:
            piece = piece.lstrip(WHITE)
            if not piece:
                return
        elif piece == "\n":
            piece = " "
        elif i > self.last + 1 and piece[0] not in WHITE:
            self._gap(i)
        if self._carried and self._code < 0 and piece.strip(WHITE):
            self._link, self._carried = (self._add("[", i, MARK), self._carried), ""
        self._add(piece, i, self._words())

    def verbatim(self, i: int, piece: str) -> None:
        """Add a piece of preformatted text."""
        if i > self.last + 1 and self.tail not in ("", "\n"):
            self._add("\n", i, MARK)
        self._add(unescape(piece), i, LITERAL)

    def line_end(self, i: int) -> None:
        """Begin a new line of preformatted text unless one has begun."""
        if self.tail not in ("", "\n"):
            self._add("\n", i, MARK)

    def space(self, i: int, mark: str = " ") -> None:
        """Set words apart that stand on lines of their own in the source, by a space or another mark."""
        if self._code >= 0 or mark == " ":
            if self.tail and self.tail not in WHITE:
                self._add(" ", i, CODE if self._code >= 0 else MARK)
        elif self.tail and not (self._kind[-1] == MARK and self._text[-1] == mark):
            self._add(mark, i, MARK)
            self.tail = " "

    def hard_break(self, i: int) -> None:
        """Add a line break inside a paragraph."""
        if self._code >= 0:
            self.space(i)
        elif self.tail and self._kind[-1] != BREAK:
            self._add("\n", i, BREAK)

    # -- inline elements ------------------------------------------------------------------------------

    def open_code(self, i: int) -> None:
        """Begin a code span."""
        self._code_depth += 1
        if self._code_depth > 1:
            return
        self._gap(i)
        if self._spans and self._spans[-1][1] == len(self._text) - 1 and self.tail == "`":
            # Two spans side by side would read as one that holds backticks: they become one.
            self._code, end = self._spans.pop()
            del self._text[end], self._piece[end], self._kind[end]
        else:
            self._code = self._add("", i, MARK)
        self._content = len(self._text)

    def close_code(self, i: int) -> None:
        """End a code span."""
        self._code_depth -= 1
        begin, first = self._code, self._content
        if self._code_depth or begin < 0:
            return
        self._code = -1
        text = self._text
        is_new = first == begin + 1
        if is_new and not "".join(text[first:]).strip(WHITE):
            self._kind[first:] = [MARK] * (len(text) - first)
            return
        if is_new:
            text[begin] = "`"
        self._spans.append((begin, self._add("`", i, MARK)))

    def code_line(self, i: int) -> None:
        """End a line of code inside a cell: the next one is a span of its own."""
        depth, self._code_depth = self._code_depth, 1
        self.close_code(i)
        self.space(i, "<br>")
        self.open_code(i)
        self._code_depth = depth

    def _delimit_code(self) -> None:
        """Write backticks around code spans, as many as each of them needs."""
        text = self._text
        for begin, end in self._spans:
            content = "".join(text[begin + 1 : end])
            if "`" in content or content[:1] == content[-1:] == " ":
                before, after = code_marks(content)
                text[begin] = text[begin].replace("`", before)
                text[end] = text[end].replace("`", after)

    def open_link(self, i: int, tag: str) -> None:
        """Begin a link if the tag says where it leads."""
        to = destination(tag_attributes(tag).get("href", "")) if len(tag) > 3 else ""
        is_link = bool(to) and self._code < 0 and self._link is None and not self._carried
        self._anchors.append(is_link)
        if is_link:
            self._gap(i)
            self._link = (self._add("[", i, MARK), to)

    def close_link(self, i: int) -> None:
        """End a link; one without words is none."""
        if not self._anchors or not self._anchors.pop():
            return
        self._carried = ""
        if self._link is None:
            return
        begin, to = self._link
        self._link = None
        if self._code >= 0:
            self._text[begin] = ""
        elif "".join(self._text[begin + 1 :]).strip(WHITE):
            self._add(f"]({to})", i, MARK)
        else:
            self._text[begin] = ""
            self.tail = ("".join(self._text[max(0, begin - 3) :]))[-1:]

    def image(self, i: int, tag: str) -> None:
        """Add an image of which an address or a description was kept."""
        attributes = tag_attributes(tag)
        alt = SPACES.sub(" ", unescape(attributes.get("alt", ""))).strip()
        to = destination(attributes.get("src", ""))
        if self._code >= 0:
            return
        if not (alt or to):
            self.space(i)
            return
        self._gap(i)
        shown = escape([alt], [LINKED], block=False, cell=False, heading=False)[0]
        self._add(f"![{shown}]({to})", i, MARK)

    def quote(self, i: int) -> None:
        """Add the quotation mark that a browser shows."""
        self._add('"', i, self._words())

    def open_mark(self, i: int) -> None:
        """Begin a subscript, a superscript or deleted text."""
        if self._code >= 0:
            self._marks.append(_Mark(-1, ""))
        else:
            self._gap(i)
            before = "".join(self._text[-3:])[-8:] if self.tail else ""
            self._marks.append(_Mark(self._add("", i, self._words()), before))

    def close_mark(self, i: int, name: str) -> None:
        """End it: ``x^2``, ``x_i``, ``~~old~~`` (HTML where ``~~`` would not be read as that)."""
        if not self._marks:
            return
        begin, before = self._marks.pop()
        content = "".join(self._text[begin + 1 :]) if begin >= 0 else ""
        inner = content.strip(WHITE)
        if not inner or self._code >= 0:
            return
        if name == "del":
            self._kind[begin] = MARK
            above = next((n for n in range(begin - 1, -1, -1) if self._text[n]), -1)
            tight = inner == content and inner[0].isalnum() and inner[-1].isalnum()
            if tight and "~~" not in inner and (above < 0 or self._text[above] != "~~"):
                self._text[begin] = "~~"
                self._add("~~", i, MARK)
            else:
                self._text[begin] = "<del>"
                self._add("</del>", i, MARK)
            return
        opening, closing = script(name, before, content)
        if opening:
            self._text[begin] = opening
            if closing:
                self._add(closing, i, self._words())

    def formula(self, i: int, name: str, *, closing: bool) -> None:
        """Meet a tag of a formula."""
        if self._code < 0:
            (self._formulas.end if closing else self._formulas.start)(name, i)

    # -- the result -----------------------------------------------------------------------------------

    def _settle(self) -> None:
        """Make plain text of what a block inside it, or its end, has cut off.

        A link ends with its first line.
        """
        if self._code >= 0:
            self._text[self._code] = self._text[self._code].replace("`", "")
            for n in range(self._code + 1, len(self._text)):
                if self._kind[n] == CODE:
                    self._kind[n] = LITERAL
            self._code = -1
        if self._link is not None:
            (begin, to), self._link = self._link, None
            if "".join(self._text[begin + 1 :]).strip(WHITE):
                self._text[-1] = self._text[-1].rstrip(WHITE)
                self._add(f"]({to})", self._piece[-1], MARK)
            else:
                self._text[begin], self._carried = "", to
        self._marks = [_Mark(-1, "")] * len(self._marks)
        self._delimit_code()

    def take_verbatim(self) -> list[Part]:
        """Give out preformatted text and begin anew."""
        parts = [Part(*row) for row in zip(self._text, self._piece, self._kind, strict=True)]
        self._clear()
        return parts

    def take(self, *, block: bool = False, cell: bool = False, heading: bool = False) -> list[Part]:
        """Give out the line, escaped, without white space at its ends, and begin anew.

        Args:
            block: whether it stands where a block may begin (a paragraph).
            cell: whether it stands in a row of a table.
            heading: whether it is a heading.
        """
        text, piece, kind = self._text, self._piece, self._kind
        if not text:
            return []
        self._settle()
        n = len(text)
        while n and (not text[n - 1].strip(WHITE) or (kind[n - 1] == MARK and text[n - 1] == "<br>")):
            n -= 1
        del text[n:], piece[n:], kind[n:]
        first = 0
        while first < n and (not text[first].strip(WHITE)):
            first += 1
        parts: list[Part] = []
        if first < n:
            text[-1] = text[-1].rstrip(WHITE)
            text[first] = text[first].lstrip(WHITE)
            text, piece, kind = text[first:], piece[first:], kind[first:]
            text = escape(text, kind, block=block, cell=cell, heading=heading)
            parts = [Part(*row) for row in zip(text, piece, kind, strict=True)]
        self._clear()
        return parts

    def _clear(self) -> None:
        self.tail = ""
        self._formulas.clear()
        self._text, self._piece, self._kind = [], [], []
        self._spans = []
