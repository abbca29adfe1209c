"""The open elements of a page as browsers have them, and whether what stands in them is seen.

The stack of open elements and the formatting elements that go on in the next block, as in the HTML standard
(sections 13.2.4.2 and 13.2.4.3). Which tags open and end what is in `html_reach`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import NamedTuple

from tokenprune.segment.html_hidden import NOT_RENDERED, Look, State, look_of_svg, painted
from tokenprune.segment.html_sheets import Rule
from tokenprune.segment.html_tags import CELLS, SECTIONS

SPECIAL = frozenset(
    "address applet area article aside base basefont bgsound blockquote body br button caption center col"
    " colgroup dd details dir div dl dt embed fieldset figcaption figure footer form frame frameset h1 h2 h3"
    " h4 h5 h6 head header hgroup hr html iframe img input keygen li link listing main marquee menu meta nav"
    " noembed noframes noscript object ol p param plaintext pre script search section select source style"
    " summary table tbody td template textarea tfoot th thead title tr track ul wbr xmp".split()
)
# Formatting outside of these does not go on inside.
_MARKERS = frozenset("applet marquee object td th caption".split())
_NO_WALLS = frozenset("address div p li dd dt".split())  # an <li> ends one around these
_SCOPES = _MARKERS | {"table", "select", "template"}
TABLE_PARTS = CELLS | SECTIONS | {"tr", "caption", "colgroup", "col"}
IN_TABLE = SECTIONS | {"table", "tr"}  # what stands right in these is put in front of the table
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


class Open:
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


class _Page(Open):
    """What stands around everything."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__("html", -1, "", None)
        self.scope = self.button = self.special = self.wall = -1
        self.html = self.within = -1
        self.state, self.unseen = _NOTHING, None


class OpenElements:
    """The stack of open elements."""

    def __init__(
        self,
        looks: Mapping[int, Look],
        rules: Mapping[int, Rule],
        attrs: Callable[[int], str],
        *,
        quirks: bool,
    ) -> None:
        self.looks, self.rules, self.attrs, self.quirks = looks, rules, attrs, quirks
        self.root: Open = _Page()
        self.stack: list[Open] = []
        self.where: defaultdict[str, list[int]] = defaultdict(list)  # places in the stack by name
        self.formats: list[list[Open]] = [[]]  # that go on, by the marker behind which they stand

    # -- the stack ------------------------------------------------------------------------------------

    def top(self) -> Open:
        """The innermost open element."""
        return self.stack[-1] if self.stack else self.root

    def last(self, *names: str) -> int:
        """The place of the innermost open element of these names, -1 for none."""
        found = -1
        for name in names:
            if (at := self.where.get(name)) and at[-1] > found:
                found = at[-1]
        return found

    def around(self) -> Open:
        """The element that what comes next is put into."""
        top = self.top()
        if top.name in IN_TABLE and not top.foreign:
            at = self.last("table")
            return self.stack[at - 1] if at > 0 else self.root
        return top

    def push(self, name: str, mark: int, foreign: str = "") -> Open:
        """Open an element; ``mark`` is its tag, ``foreign`` the SVG or MathML that it belongs to."""
        at, plain = len(self.stack), not foreign
        top = self.stack[-1] if at else self.root
        look = self.looks.get(mark)
        e = Open(name, mark, foreign, look)
        parent = self.around() if top.name in IN_TABLE and (name not in TABLE_PARTS or not plain) else top
        e.state, e.unseen = parent.state, parent.unseen
        if look is not None or not plain or parent.state is not _NOTHING:
            self._see(e, parent)
        inside = not plain and name in _HTML_INSIDE[foreign]
        e.scope, e.button, e.special, e.wall = top.scope, top.button, top.special, top.wall
        if inside or (plain and name in SPECIAL):
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

    def _see(self, e: Open, parent: Open) -> None:
        """Work out whether what stands in an element is seen."""
        if e.unseen is not None and e.unseen.whole:
            return
        look, rule = e.look, self.rules.get(e.mark)
        if e.foreign:
            if e.name in _UNRENDERED[e.foreign] and not (e.name == "annotation" and look is not None):
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
        """Close a paragraph, if one is open in what is around."""
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

    def _add_format(self, e: Open) -> None:
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
        moved: list[Open] = []  # blocks inside it
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

    def end_other(self, name: str) -> None:
        """Close an element for which there is no rule of its own."""
        if (at := self.last(name)) >= max(self.top().special, 0):
            self.pop_to(at)
