"""How far a hidden element reaches, as browsers see it.

libxml2 ends elements where browsers do not: ``<b hidden><p>text</p></b>`` becomes an empty ``<b>`` and a
paragraph beside it. So what is hidden is not asked of libxml2's tree. The tags of a page are read here once
more with the rules of the HTML standard's tree construction (section 13.2.6) that decide what lies inside
what: scopes, formatting elements that go on in the next block, tables, forms, selects and foreign content.
Only what lies around each tag and text is kept, no tree. Linear in the number of tags.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from tokenprune.segment.html_hidden import NOT_RENDERED, Look, State, look_of_svg, painted
from tokenprune.segment.html_repair import owns_text
from tokenprune.segment.html_sheets import Rule
from tokenprune.segment.html_source import Source
from tokenprune.segment.html_tags import CELLS, HEADINGS, VOID

_FORMATTING = frozenset("a b big code em font i nobr s small strike strong tt u".split())
_SPECIAL = frozenset(
    "address applet area article aside base basefont bgsound blockquote body br button caption center col"
    " colgroup dd details dir div dl dt embed fieldset figcaption figure footer form frame frameset h1 h2 h3"
    " h4 h5 h6 head header hgroup hr html iframe img input keygen li link listing main marquee menu meta nav"
    " noembed noframes noscript object ol p param plaintext pre script search section select source style"
    " summary table tbody td template textarea tfoot th thead title tr track ul wbr xmp".split()
)
_BLOCKS = frozenset(
    "address article aside blockquote center details dialog dir div dl fieldset figcaption figure footer"
    " header hgroup listing main menu nav ol pre search section summary ul".split()
)
ENDS_P = _BLOCKS | HEADINGS | frozenset("p form li dd dt hr plaintext xmp".split())
_SCOPED_ENDS = _BLOCKS | frozenset("button select applet marquee object dd dt form".split())
# Formatting outside of these does not go on inside.
_MARKERS = frozenset("applet marquee object td th caption".split())
_NO_WALLS = frozenset("address div p li dd dt".split())  # an <li> ends one around these
_SCOPES = _MARKERS | {"table", "select", "template"}
SECTIONS = frozenset(("tbody", "thead", "tfoot"))
TABLE_PARTS = CELLS | SECTIONS | {"tr", "caption", "colgroup", "col"}
IN_TABLE = SECTIONS | {"table", "tr"}  # what stands right in these is put in front of the table
RUBY = frozenset(("rb", "rt", "rp", "rtc"))
_MAKE_ROOM = (
    ENDS_P | RUBY | frozenset("table option optgroup button select input keygen textarea a nobr".split())
)
_PAGE = frozenset(("html", "head", "body", "frameset"))
# Start tags before which formatting does not go on.
_PLAIN_STARTS = _SPECIAL - frozenset(
    "applet area br button embed img input keygen marquee object select wbr".split()
)
# HTML in an svg or math element: these end it.
BREAK_OUT = frozenset(
    "b big blockquote body br center code dd div dl dt em embed h1 h2 h3 h4 h5 h6 head hr i img li listing"
    " menu meta nobr ol p pre ruby s small span strong strike sub sup table tt u ul var".split()
)
_HTML_INSIDE = {
    "svg": frozenset(("foreignobject", "desc", "title")),
    "math": frozenset("mi mo mn ms mtext annotation-xml".split()),
}
_UNRENDERED = {
    "svg": frozenset(("title", "desc", "metadata")),
    "math": frozenset(("annotation", "annotation-xml", "mphantom")),
}

_MOST_ALIKE = 3  # formatting elements of one kind that go on (the standard's "Noah's Ark clause")
_MOST_FORMATS = 64  # of all kinds
_MOST_MOVES = 8  # blocks that an end tag moves out of its formatting element


_NOTHING = State()


class Unseen(NamedTuple):
    """Why a tag or text is not seen.

    Attributes:
        reason: as the receipt names it.
        whole: whether it lies in an element that is not there at all; otherwise one inside it may be seen.
        rule: of a style sheet that says so.
    """

    reason: str
    whole: bool
    rule: Rule | None = None


class Reach(NamedTuple):
    """What is not seen, by number: of start tags, and of the texts that follow a start tag or a number."""

    tags: dict[int, Unseen]
    texts: dict[int, Unseen]


class _Open:
    """An open element and, for each bound that the standard asks for, the nearest one in the stack."""

    __slots__ = (
        "button", "foreign", "html", "is_open", "look", "mark", "name", "scope", "special", "state", "unseen",
        "wall", "within",
    )  # fmt: skip

    scope: int
    button: int
    special: int
    wall: int  # where an <li> ends no other one behind it
    html: int  # the nearest HTML element
    within: int  # the nearest one that holds HTML
    state: State
    unseen: Unseen | None

    def __init__(self, name: str, mark: int, foreign: str, look: Look | None) -> None:
        self.name, self.mark, self.foreign, self.look = name, mark, foreign, look
        self.is_open = True


class _Page(_Open):
    """What stands around everything."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__("html", -1, "", None)
        self.scope = self.button = self.special = self.wall = -1
        self.html = self.within = -1
        self.state, self.unseen = _NOTHING, None


class _Tree:
    def __init__(
        self,
        looks: Mapping[int, Look],
        rules: Mapping[int, Rule],
        attrs: Callable[[int], str],
        *,
        quirks: bool,
    ) -> None:
        self.looks, self.rules, self.attrs, self.quirks = looks, rules, attrs, quirks
        self.root: _Open = _Page()
        self.stack: list[_Open] = []
        self.where: defaultdict[str, list[int]] = defaultdict(list)  # places in the stack by name
        self.formats: list[list[_Open]] = [[]]  # that go on, by the marker behind which they stand

    # -- the stack ------------------------------------------------------------------------------------

    def top(self) -> _Open:
        return self.stack[-1] if self.stack else self.root

    def last(self, *names: str) -> int:
        """The place of the innermost open element of these names, -1 for none."""
        found = -1
        for name in names:
            if (at := self.where.get(name)) and at[-1] > found:
                found = at[-1]
        return found

    def around(self) -> _Open:
        """The element that what comes next is put into."""
        top = self.top()
        if top.name in IN_TABLE and not top.foreign:
            at = self.last("table")
            return self.stack[at - 1] if at > 0 else self.root
        return top

    def push(self, name: str, mark: int, foreign: str = "") -> _Open:
        at, plain = len(self.stack), not foreign
        top = self.stack[-1] if at else self.root
        look = self.looks.get(mark)
        e = _Open(name, mark, foreign, look)
        parent = self.around() if top.name in IN_TABLE and (name not in TABLE_PARTS or not plain) else top
        e.state, e.unseen = parent.state, parent.unseen
        if look is not None or not plain or parent.state is not _NOTHING:
            self._see(e, parent)
        inside = not plain and name in _HTML_INSIDE[foreign]
        e.scope, e.button, e.special, e.wall = top.scope, top.button, top.special, top.wall
        if inside or (plain and name in _SPECIAL):
            e.special = at
            if name not in _NO_WALLS:
                e.wall = at
            if inside or name in _SCOPES:
                e.scope = e.button = at
            elif name == "button":
                e.button = at
        e.html = at if plain else top.html
        e.within = at if plain or inside else top.within
        self.stack.append(e)
        self.where[name].append(at)
        if plain and name in _MARKERS:
            self.formats.append([])
        return e

    def _see(self, e: _Open, parent: _Open) -> None:
        """Work out whether what stands in an element is seen."""
        if e.unseen is not None and e.unseen.whole:
            return
        look, rule = e.look, self.rules.get(e.mark)
        if e.foreign:
            if e.name in _UNRENDERED[e.foreign]:
                e.unseen = Unseen(NOT_RENDERED, True)
                return
            if e.foreign == "svg" and (said := look_of_svg(e.name, self.attrs(e.mark))) is not None:
                look = said if rule is None else said._replace(reason=said.reason or (look or said).reason)
        if look is not None and look.reason:
            e.unseen = Unseen(look.reason, True, rule)
            return
        if e.state is not _NOTHING or look is not None:
            look = painted(e.name, look, self.attrs(e.mark))
        if look is not None:
            e.state = parent.state.inside(look)
            reason = e.state.reason
            rule = rule or (parent.unseen and parent.unseen.rule)
            e.unseen = Unseen(reason, False, rule) if reason else None

    def pop_to(self, at: int) -> None:
        """Close elements until this many are open."""
        stack = self.stack
        while stack and (len(stack) > at or not stack[-1].name):
            e = stack.pop()
            e.is_open = False
            if e.name:
                self.where[e.name].pop()
                if e.name in _MARKERS and not e.foreign:
                    self.formats.pop()

    def close_p(self) -> None:
        if (at := self.last("p")) > self.top().button:
            self.pop_to(at)

    # -- formatting -----------------------------------------------------------------------------------

    def go_on(self) -> None:
        """Open again the formatting elements that a block has cut off."""
        formats = self.formats[-1]
        if not formats or formats[-1].is_open:
            return
        n = len(formats)
        while n and not formats[n - 1].is_open:
            n -= 1
        for k in range(n, len(formats)):
            formats[k] = self.push(formats[k].name, formats[k].mark)

    def _add_format(self, e: _Open) -> None:
        formats = self.formats[-1]
        alike = [k for k, f in enumerate(formats) if f.name == e.name and f.look == e.look]
        if len(alike) >= _MOST_ALIKE:
            del formats[alike[0]]
        elif len(formats) >= _MOST_FORMATS:
            shown = (k for k, f in enumerate(formats) if f.look is None or not f.look.reason)
            del formats[next(shown, 0)]
        formats.append(e)

    def end_format(self, name: str) -> None:
        """The standard's "adoption agency algorithm"."""
        formats = self.formats[-1]
        k = next((k for k in range(len(formats) - 1, -1, -1) if formats[k].name == name), -1)
        if k < 0 or (self.top().name == name and self.top() not in formats):
            self.end_other(name)
            return
        e = formats[k]
        if not e.is_open:
            del formats[k]
            return
        at = next(p for p in reversed(self.where[name]) if self.stack[p] is e)
        if at < self.top().scope:
            return
        moved: list[_Open] = []  # blocks inside it
        p = self.top().special
        while p > at and len(moved) < _MOST_MOVES:
            moved.append(self.stack[p])
            p = self.stack[p - 1].special
        if len(moved) >= _MOST_MOVES:
            return  # then it goes on in the innermost of them
        del formats[k]
        self.pop_to(at)
        for m in reversed(moved):
            self.push(m.name, m.mark, m.foreign)

    # -- tags -----------------------------------------------------------------------------------------

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

    def end_other(self, name: str) -> None:
        if (at := self.last(name)) >= max(self.top().special, 0):
            self.pop_to(at)


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
    tree, found, words = _Tree(looks, rules, page.attributes, quirks=quirks), Reach({}, {}), page.words
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
        inside = top()
        if not name or (words[mark] and owns_text(page, mark)):
            tree.go_on()
            inside = tree.around()
        if (unseen := inside.unseen) is not None:
            found.texts[mark] = unseen
        elif not name:  # it does not stand in the element of its tag
            found.texts.pop(mark, None)
    return found
