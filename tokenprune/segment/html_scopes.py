"""Whether a page's tags, which nest as they are written, nest so for browsers as well.

Then an element reaches from its start tag to its end tag, and what says nothing about being seen need not
be read by `html_reach`. Nothing is decided here that is not plain: a page that only may be read otherwise is
left to the rules of the HTML standard's tree construction there.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from tokenprune.arrays import IntArray
from tokenprune.segment.html_names import codes_among
from tokenprune.segment.html_nesting import Nesting
from tokenprune.segment.html_open import IN_TABLE, TABLE_PARTS
from tokenprune.segment.html_reach import BREAK_OUT, ENDS_P, RUBY
from tokenprune.segment.html_source import CLOSES, ENDED, OPENS, Source
from tokenprune.segment.html_tags import HEADINGS, SECTIONS, VOID

# What stands right in these only.
_PARENTS = {
    "li": frozenset(("ul", "ol", "menu", "dir")), "dd": frozenset(("dl",)), "dt": frozenset(("dl",)),
    "td": frozenset(("tr",)), "th": frozenset(("tr",)), "tr": SECTIONS | {"table"},
    **dict.fromkeys((*SECTIONS, "caption", "colgroup"), frozenset(("table",))),
    "col": frozenset(("colgroup", "table")),
}  # fmt: skip
_CONTROLS = frozenset("select input keygen textarea".split())
_FOREIGN = frozenset(("svg", "math"))
# What does not stand anywhere in these.
_NEVER_IN = {
    "p": ENDS_P | {"table"}, "select": _CONTROLS,
    **{name: frozenset((name,)) for name in ("a", "nobr", "form", "button")},
    **dict.fromkeys(_FOREIGN, BREAK_OUT | {"font"}),
}  # fmt: skip


def nests(page: Source, nesting: Nesting) -> bool:
    """Return whether browsers take the elements of a page to reach as far as their tags say."""
    if not all(_stands_in(*pair) for pair in nesting.pairs):
        return False
    codes, names = page.codes, page.names
    used = set(np.flatnonzero(np.bincount(codes)).tolist())
    place = {name: p for p, name in enumerate(names)}

    def inside(name: str) -> IntArray | None:
        """How many elements of a name are open behind each tag, int64 [k]."""
        code = 4 * place.get(name, -1)
        return None if code not in used else np.cumsum((codes == code) * 1 - (codes == code + CLOSES))

    foreign = np.zeros(len(codes), dtype=np.int64)
    for outer, inner in _NEVER_IN.items():
        depth = inside(outer)
        if depth is None:
            continue
        around = depth - (codes == 4 * place[outer])  # of the tag itself
        tags = [4 * place[n] + kind for n in inner if n in place for kind in (OPENS, ENDED)]
        if not used.isdisjoint(tags) and around[codes_among(codes, used.intersection(tags))].any():
            return False
        if outer in _FOREIGN:
            foreign += depth
    closed = [c for c in used if c & 3 == ENDED and names[c >> 2] not in VOID]
    if closed and (foreign[codes_among(codes, closed)] == 0).any() and not page.xml:
        return False  # for browsers, a slash ends nothing but these
    at = np.where(codes & 3 == OPENS, np.arange(len(codes)), nesting.parent)
    within = codes_among(codes[at], [4 * place[n] for n in IN_TABLE]) & (at >= 0)
    return not bool((within & page.has_words).any())


@lru_cache(maxsize=1 << 14)
def _stands_in(around: str, name: str) -> bool:
    """Whether for browsers an element may stand right in another one."""
    if name in _PARENTS and around not in _PARENTS[name]:
        return False
    if around in IN_TABLE | {"colgroup"} and name not in TABLE_PARTS:
        return False
    pair = {around, name}
    return not (
        pair <= HEADINGS
        or pair <= RUBY
        or (
            around in ("option", "optgroup")
            and name in ("option", "optgroup")
            and (around, name) != ("optgroup", "option")
        )
    )
