"""The shortest markup that parses to the same tree: what the HTML standard lets an author leave out.

In a table of short cells the tags are more tokens than the words. The standard (section 13.1.2.4, "Optional
tags") makes most end tags optional, and white space between cells means nothing. Divisions that only group
other blocks go as well, tags only: their blocks stay apart by themselves.

Every rule looks at all children of an element, never at the next one, because pruning may take any of them.
"""

from __future__ import annotations

from collections.abc import Collection

from tokenprune.segment.html_page import BREAK, CLOSE, TEXT, CleanPage
from tokenprune.segment.html_tags import CELLS, ENDED_BY

_ROWS = frozenset(("tr", "caption"))
# Element -> parent -> all that the parent may hold for the element's end tag to be optional. Not dt and dd:
# libxml2 does not end one of them at the next of its kind.
_OPTIONAL_END: dict[str, dict[str, frozenset[str]]] = {
    "td": {"tr": CELLS},
    "th": {"tr": CELLS},
    "tr": {"table": _ROWS | {"thead"}, "tbody": _ROWS, "thead": _ROWS, "tfoot": _ROWS},
    "li": dict.fromkeys(("ul", "ol", "menu", "dir"), frozenset(("li",))),
    "option": {"select": frozenset(("option",)), "optgroup": frozenset(("option",))},
}
_NOTHING: frozenset[str] = frozenset()
# Blocks that end an open paragraph for every parser, old ones included.
_ENDS_P = frozenset("p div h1 h2 h3 h4 h5 h6 ul ol dl pre table blockquote form fieldset address".split())
# Elements whose own end ends a paragraph in them.
_HOLDS_P = frozenset("div section article main header footer nav aside blockquote li dd td th form".split())
# Elements that only group, and what stands apart without them.
_DIVISIONS = frozenset("div section article main hgroup form".split())
_STAND_APART = (_ENDS_P - {"form", "fieldset", "address"}) | _DIVISIONS | {"nav", "aside", "header", "footer"}
_TOP = -1


def compact(page: CleanPage) -> list[str]:
    """Return the text of every event of a page, "" where it can be left out."""
    plain = _Structure(page, frozenset())
    gone = frozenset(n for n, tag in enumerate(page.tag) if page.alive[n] and plain.only_groups(n, tag))
    structure = _Structure(page, gone) if gone else plain
    texts = list(page.text)
    for i, (kind, node) in enumerate(zip(page.kind, page.node, strict=True)):
        if kind == TEXT:
            if node >= 0 and page.tag[node] == "tr" and not page.bare[node] and texts[i].isspace():
                texts[i] = ""
        elif kind != BREAK and (node in gone or (kind == CLOSE and structure.ends_by_itself(node))):
            texts[i] = ""
    return texts


class _Structure:
    """What every element holds, once some elements around others are gone."""

    def __init__(self, page: CleanPage, gone: Collection[int]) -> None:
        self.page = page
        self.around = [_TOP] * len(page.tag)  # the element around each one; _TOP is also the last index
        self.children: list[set[str]] = [set() for _ in range(len(page.tag) + 1)]
        self.bare = list(page.bare)
        inside = [_TOP] * (len(page.tag) + 1)  # where the children of each element stand
        for node, tag in enumerate(page.tag):  # parents come first
            around = inside[page.parent[node]]
            if page.alive[node] and node not in gone:
                self.around[node] = around
                self.children[around].add(tag)
                inside[node] = node
            else:
                inside[node] = around
                if self.bare[node]:
                    self.bare[around] = True

    def only_groups(self, node: int, tag: str) -> bool:
        """Whether an element's tags say nothing: its children stand apart without them."""
        children = self.children[node]
        if self.bare[node] or not children:
            return False
        if tag == "tbody":
            around = self.around[node]
            table = around >= 0 and self.page.tag[around] == "table"
            return table and self._only_tbody(around) and children <= _ROWS
        return tag in _DIVISIONS and children <= _STAND_APART and not self._keeps_open(node)

    def _keeps_open(self, node: int) -> bool:
        """Whether without an element the tags in it would end the one around it."""
        around = self.around[node]
        while around >= 0 and self.page.tag[around] in _DIVISIONS:
            around = self.around[around]
        return around >= 0 and not self.children[node].isdisjoint(ENDED_BY.get(self.page.tag[around], ()))

    def _only_tbody(self, table: int) -> bool:
        return not (self.children[table] - {"caption", "thead", "tbody"} or self.bare[table])

    def ends_by_itself(self, node: int) -> bool:
        """Whether an element's end tag can go, whichever of the elements around it are pruned."""
        tag, around = self.page.tag[node], self.around[node]
        children = self.children[around]
        if self.bare[around]:
            return False
        if tag == "p":
            return children <= _ENDS_P and (around == _TOP or self.page.tag[around] in _HOLDS_P)
        parents = _OPTIONAL_END.get(tag)
        if parents is None or around == _TOP:
            return False
        return children <= parents.get(self.page.tag[around], _NOTHING)
