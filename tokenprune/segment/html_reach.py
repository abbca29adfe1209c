"""How far a hidden element reaches, as browsers see it.

libxml2 ends elements where browsers do not: ``<b hidden><p>text</p></b>`` becomes an empty ``<b>`` and a
paragraph beside it. So what is hidden is not asked of libxml2's tree. The tags of a page are read here once
more with the rules of the HTML standard's tree construction (section 13.2.6) that decide what lies inside
what: scopes, formatting elements that go on in the next block, tables, forms, selects and foreign content.
Only what lies around each tag and text is kept, no tree. Linear in the number of tags.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from tokenprune.segment.html_hidden import Look
from tokenprune.segment.html_open import SPECIAL, TABLE_PARTS, OpenElements, Unseen
from tokenprune.segment.html_repair import owns_text
from tokenprune.segment.html_sheets import Rule
from tokenprune.segment.html_source import Source
from tokenprune.segment.html_tags import CELLS, HEADINGS, SECTIONS, VOID

_FORMATTING = frozenset("a b big code em font i nobr s small strike strong tt u".split())
_BLOCKS = frozenset(
    "address article aside blockquote center details dialog dir div dl fieldset figcaption figure footer"
    " header hgroup listing main menu nav ol pre search section summary ul".split()
)
ENDS_P = _BLOCKS | HEADINGS | frozenset("p form li dd dt hr plaintext xmp".split())
_SCOPED_ENDS = _BLOCKS | frozenset("button select applet marquee object dd dt form".split())
RUBY = frozenset(("rb", "rt", "rp", "rtc"))
_MAKE_ROOM = (
    ENDS_P | RUBY | frozenset("table option optgroup button select input keygen textarea a nobr".split())
)
_PAGE = frozenset(("html", "head", "body", "frameset"))
# Start tags before which formatting does not go on.
_PLAIN_STARTS = SPECIAL - frozenset(
    "applet area br button embed img input keygen marquee object select wbr".split()
)
# HTML in an svg or math element: these end it.
BREAK_OUT = frozenset(
    "b big blockquote body br center code dd div dl dt em embed h1 h2 h3 h4 h5 h6 head hr i img li listing"
    " menu meta nobr ol p pre ruby s small span strong strike sub sup table tt u ul var".split()
)


class Reach(NamedTuple):
    """What is not seen, by number: of start tags, and of the texts that follow a start tag or a number."""

    tags: dict[int, Unseen]
    texts: dict[int, Unseen]


class _Tags(OpenElements):
    """Opens and ends elements as tags say."""

    def start(self, name: str, mark: int) -> None:
        top = self.top()
        if top.foreign and name not in ("svg", "math") and self._in_foreign():
            if name not in BREAK_OUT and not (name == "font" and self.attrs(mark)):
                if not self.attrs(mark).endswith("/"):
                    self.push(name, mark, top.foreign)
                return
            self.pop_to(top.within + 1)
        if name in ("svg", "math"):
            self.go_on()
            if not self.attrs(mark).endswith("/"):
                self.push(name, mark, name)
            return
        if name in _PAGE:
            if not self.stack and (look := self.looks.get(mark)) is not None:
                self.root.state = state = self.root.state.inside(look)
                self.root.unseen = Unseen(state.reason, False) if state.reason else None
            return
        if name in TABLE_PARTS:
            self._start_table_part(name, mark)
            return
        if name in _MAKE_ROOM:
            self._make_room(name)
        if name == "form" and self.where["form"]:
            return
        if name not in _PLAIN_STARTS:
            self.go_on()
        if name not in VOID:
            e = self.push(name, mark)
            if name in _FORMATTING:
                self._add_format(e)

    def _in_foreign(self) -> bool:
        """Whether the rules for foreign content read a start tag."""
        top = self.top()
        if top.within != len(self.stack) - 1:
            return True
        return top.name == "annotation-xml" and "html" not in self.attrs(top.mark).lower()

    def _make_room(self, name: str) -> None:
        """Close what a start tag ends."""
        top = self.top()
        if name in ("li", "dd", "dt"):
            at = self.last("li") if name == "li" else self.last("dd", "dt")
            if at > top.wall:
                self.pop_to(at)
        elif name == "table" and self.last("table") > self.last("td", "th", "caption", "select", "template"):
            self.pop_to(self.last("table"))
        elif name in ("option", "optgroup"):
            if top.name == "option":
                self.pop_to(len(self.stack) - 1)
            if name == "optgroup" and self.top().name == "optgroup":
                self.pop_to(len(self.stack) - 1)
        elif name in RUBY:
            if top.name in RUBY:
                self.pop_to(len(self.stack) - 1)
        elif name == "button":
            if (at := self.last("button")) > top.scope:
                self.pop_to(at)
        elif name in ("select", "input", "keygen", "textarea"):
            if (at := self.last("select")) >= 0 and at == top.scope:
                self.pop_to(at)
        elif name in ("a", "nobr") and any(f.name == name for f in self.formats[-1]):
            self.end_format(name)
        if name in ENDS_P or (name == "table" and not self.quirks):
            self.close_p()
            if name in HEADINGS and self.top().name in HEADINGS:
                self.pop_to(len(self.stack) - 1)

    def _start_table_part(self, name: str, mark: int) -> None:
        table = self.last("table")
        if table < 0:  # browsers take it for nothing; it may be the inside of a table, though
            if self.top().name == name:
                self.pop_to(len(self.stack) - 1)
            if name != "col":
                self.push(name, mark)
            return
        if name in CELLS:
            to = max(self.last("tr"), self.last(*SECTIONS), table)
        elif name == "tr":
            to = max(self.last(*SECTIONS), table)
        else:
            to = table
        self.pop_to(to + 1)
        if name != "col":
            self.push(name, mark)

    def end(self, name: str) -> None:
        top, formats = self.top(), self.formats[-1]
        if top.name == name and (name not in _FORMATTING or (formats and formats[-1] is top)):
            self.pop_to(len(self.stack) - 1)  # as nearly all do: the rules below come to the same
            if name in _FORMATTING:
                formats.pop()
            return
        at = self.last(name)
        if top.foreign and at > top.html:
            self.pop_to(at)
        elif name in _PAGE:
            return
        elif name in _FORMATTING:
            self.end_format(name)
        elif name == "p":
            if at > top.button:
                self.pop_to(at)
        elif name == "form":
            if at > top.scope:
                self._end_form(at)
        elif name == "li":
            if at > max(top.scope, self.last("ol", "ul")):
                self.pop_to(at)
        elif name in HEADINGS:
            if (at := self.last(*HEADINGS)) > top.scope:
                self.pop_to(at)
        elif name in _SCOPED_ENDS:
            if at >= 0 and at >= top.scope:
                self.pop_to(at)
        elif name in TABLE_PARTS or name == "table":
            if at >= 0 and at >= self.last("table"):
                self.pop_to(at)
        else:
            self.end_other(name)

    def _end_form(self, at: int) -> None:
        """Close a form; what else is open in it stays so."""
        if at == len(self.stack) - 1:
            self.pop_to(at)
        else:
            self.where["form"].pop()
            self.stack[at].name = ""


def reach(
    tags: Iterable[tuple[int, str]],
    looks: Mapping[int, Look],
    rules: Mapping[int, Rule],
    page: Source,
    *,
    quirks: bool,
) -> Reach:
    """Find what is not seen.

    Args:
        tags: (number, lower-cased name) of start tags, (-1, name) of end tags, (number, "") of texts that do
            not follow a start tag.
        looks: what start tags say about being seen, by number.
        rules: of style sheets that these come from.
        page: what the numbers stand for.
        quirks: whether the page has no doctype; then a table can stand in a paragraph.
    """
    tree, found, words = _Tags(looks, rules, page.attributes, quirks=quirks), Reach({}, {}), page.words
    start, end, top = tree.start, tree.end, tree.top
    for mark, name in tags:
        if mark < 0:
            end(name)
            continue
        if name:
            start(name, mark)
            inside, look = top(), looks.get(mark)
            unseen = inside.unseen if inside.mark == mark else tree.around().unseen
            if unseen is not None and unseen.whole:
                found.tags[mark] = unseen
            elif name == "img" and look is not None and look.reason:
                found.tags[mark] = Unseen(look.reason, True, rules.get(mark))
            if name == "input" and page.source[page.after[mark] - 1] != ">":  # behind it stands what it says
                if look is not None and (why := look.reason or inside.state.inside(look).reason):
                    found.tags[mark] = Unseen(why, True, rules.get(mark))
                if mark in found.tags:
                    found.texts[mark] = found.tags[mark]
                    continue
        inside = top()
        if not name or (words[mark] and owns_text(page, mark)):
            tree.go_on()
            inside = tree.around()
        if (unseen := inside.unseen) is not None:
            found.texts[mark] = unseen
        elif not name:  # it does not stand in the element of its tag
            found.texts.pop(mark, None)
    return found
