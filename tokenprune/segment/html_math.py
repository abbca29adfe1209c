"""Formulas in MathML: what their tags say, said in the little HTML that stays.

Where a formula carries its TeX (an ``annotation``), that is what is kept of it, as code, instead of the signs
one by one. Elsewhere scripts become ``sup`` and ``sub``, and fractions and roots keep their tags: without
them "1/2" would read "12".
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from unicodedata import normalize

import numpy as np

from tokenprune.segment.entities import unescape
from tokenprune.segment.html_rows import ENDS, STARTS, Rows
from tokenprune.segment.html_source import CLOSES, KNOWN, OPENS, Source
from tokenprune.segment.html_tags import PARTED_MATH, attributes
from tokenprune.segment.html_tree import tree

_SCRIPTS = {
    **dict.fromkeys(("msup", "mover"), ("", "sup")),
    **dict.fromkeys(("msub", "munder"), ("", "sub")),
    **dict.fromkeys(("msubsup", "munderover"), ("", "sub", "sup")),
}
_STAY = PARTED_MATH | {"msqrt"}
_COMMAND = re.compile(r"\\(?:begin|end)\{\w+\*?\}|\\[a-zA-Z]+")
_ALL = _STAY | frozenset(_SCRIPTS) | {"annotation"}


def is_tex(written: str) -> bool:
    """Whether an annotation with these attributes, as they are written, is TeX."""
    return attributes(written).get("encoding", "").strip().lower() in ("application/x-tex", "tex", "latex")


def _says_the_same(tex: str, signs: str) -> bool:
    """Whether TeX may stand for the signs of a formula: people do not see it, so it must not say more."""
    found = Counter(c for c in _COMMAND.sub("", tex) if c.isalnum())
    return len(tex) <= 60 + 12 * len(signs) and found <= Counter(normalize("NFKC", signs))


def annotated(page: Source) -> Iterator[tuple[int, int]]:
    """Formulas that carry their TeX, and no more: where their signs start, and the annotation."""
    if "annotation" not in page.names or "semantics" not in page.names:
        return
    opens = [4 * page.names.index(name) + OPENS for name in ("semantics", "annotation")]
    around = -1
    for k in np.flatnonzero(np.isin(page.codes, opens)).tolist():
        if page.code[k] == opens[0]:
            around = k
        elif around >= 0 and around + 1 < k and is_tex(page.attributes(k)):
            signs = unescape("".join(page.text[around:k]))
            if page.code[around + 1] & 3 == OPENS and _says_the_same(unescape(page.text[k]), signs):
                yield around + 1, k
            around = -1


def write_math(rows: Rows, names: list[str], attributes: Callable[[int], str]) -> None:
    """Say what tags of formulas do.

    Args:
        rows: of the page; changed in place.
        names: of tags, by place.
        attributes: of a tag as they are written, by mark.
    """
    if _ALL.isdisjoint(names[len(KNOWN) :]):
        return
    whole = tree((rows.kind == OPENS) * 1 - (rows.kind == CLOSES))
    tags = [names[place] for place in rows.place[whole.opens].tolist()]
    count = dict[int, int]()  # children of each element so far
    for n, (name, around) in enumerate(zip(tags, whole.parent.tolist(), strict=True)):
        said = name if name in _STAY else ""
        outer = tags[around] if around >= 0 else ""
        if outer in _ALL:
            k = count[around] = count.get(around, -1) + 1
            if outer in _SCRIPTS:
                said = (*_SCRIPTS[outer], "", "")[min(k, 3)] or said
            elif outer in PARTED_MATH:
                said = name
        mark = int(rows.mark[whole.opens[n]])
        if name == "annotation" and mark >= 0 and is_tex(attributes(mark)):
            said = "code"
        if said:
            at = [whole.opens[n], whole.close[n]]
            rows.act[at] = STARTS, ENDS
            rows.place[at] = names.index(said)
