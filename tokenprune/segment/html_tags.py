"""Classes of HTML tags, and how tags are written."""

from __future__ import annotations

import re
from functools import lru_cache

# Elements that only group: one of them goes when it wraps a single element.
GENERIC = frozenset(
    "div section article main header footer nav aside figure form fieldset address hgroup search details dir"
    " menu".split()
)
STRUCTURAL = frozenset(
    "title h1 h2 h3 h4 h5 h6 p pre textarea listing blockquote ul ol li dl dt dd table caption thead tbody"
    " tfoot tr td th figcaption legend summary select optgroup option".split()
)
# Elements that stand on lines of their own.
BLOCKS = GENERIC | STRUCTURAL
# The only inline tags that carry meaning; the others (a, span, b, ...) only say how the page looks.
INLINE = frozenset("code kbd samp sub sup del ins q".split())
# What means the same as one of them, and is written so: libxml2 ends an <s> at a <p>, but not a <del>.
WRITTEN_AS = {"s": "del", "strike": "del"}
# Of formulas: each element right in one of these stands for itself (numerator, denominator).
PARTED_MATH = frozenset(("mfrac", "mroot"))
# Blocks that say only how the page looks: their tags go, but words on both sides must not run together.
# (A dialog without its ``open`` would be a closed one; a template is only met where it is a shadow root.)
UNWRAPPED_BLOCKS = frozenset(("center", "noscript", "body", "dialog", "template"))
# All that does not sit inside a line; what is not named here (a link, say, whose ``href`` is kept) does.
APART = BLOCKS | UNWRAPPED_BLOCKS | {"html", "head"}
CODE = frozenset("code kbd samp".split())
HEADINGS = frozenset("h1 h2 h3 h4 h5 h6".split())
LISTS = frozenset(("ul", "ol", "dl"))
LIST_TAGS = LISTS | {"menu", "dir", "select"}  # what holds items
# Cells stay when empty: the columns of a table depend on them.
CELLS = frozenset(("td", "th"))
SECTIONS = frozenset(("tbody", "thead", "tfoot"))
VOID = frozenset(
    "area base basefont br col embed frame hr img input link meta param source track wbr".split()
)
PRE = frozenset(("pre", "textarea", "listing"))

# Which start tags end which elements when libxml2 reads them right inside (measured with 2.14 over all pairs
# of the tags above; a test measures it again). Inside something that stands between, they do not.
_PHRASE = "fieldset form li p table"
_VERBATIM = "dd dl dt fieldset form li table ul"
ENDED_BY = {
    tag: frozenset(enders.split())
    for tag, enders in {
        "address": "dd dl dt form li ul", "caption": "tbody tfoot thead tr", "dd": "dt",
        "dir": "dd dl dt form ul", "dl": "form li", "dt": "dd dl", "form": "form",
        **dict.fromkeys(("h1", "h2", "h3", "h4", "h5", "h6"), _PHRASE),
        "legend": "fieldset", "li": "li", "listing": _VERBATIM, "menu": "dd dl dt form ul", "ol": "form",
        "option": "optgroup option", "pre": _VERBATIM,
        "p": "address blockquote caption dd dir div dl dt fieldset form h1 h2 h3 h4 h5 h6 li listing menu"
             " ol p pre table tbody td tfoot th title tr ul",
        "tbody": "tbody tfoot", "td": "tbody td tfoot th tr", "tfoot": "tbody",
        "th": "tbody td tfoot th tr", "thead": "tbody tfoot", "tr": "tbody tfoot tr",
        "ul": "address form menu pre",
    }.items()
}  # fmt: skip
ENDERS = {tag: 1 << n for n, tag in enumerate(sorted({e for enders in ENDED_BY.values() for e in enders}))}
ENDED_BY_MASK = {tag: sum(ENDERS[e] for e in enders) for tag, enders in ENDED_BY.items()}

_TAG = re.compile(r"<(/?)([^\s/>]+)")
_ATTRIBUTE = re.compile(r"([^\s/>=]++)(?:\s*+=\s*+(?:\"([^\"]*+)\"|'([^']*+)'|([^\s>]++)))?")


def attributes(source: str) -> dict[str, str]:
    """Parse the attribute part of a start tag; names lower-cased, the first of a repeated name wins."""
    found: dict[str, str] = {}
    for m in _ATTRIBUTE.finditer(source):
        found.setdefault(m[1].lower(), m[2] or m[3] or m[4] or "")
    return found


def said_by(tag: str, source: str) -> tuple[int, int] | None:
    """Where in the attributes of a start tag the words stand that a browser shows of them; None for none.

    Those are the label of an ``optgroup`` and the value of an ``input`` that is a button.
    """
    wanted = {"optgroup": "label", "input": "value"}.get(tag)
    if wanted is None or wanted not in source.lower():
        return None
    if tag == "input" and attributes(source).get("type", "").lower() not in ("submit", "button", "reset"):
        return None
    for m in _ATTRIBUTE.finditer(source):
        if m[1].lower() == wanted and m.lastindex is not None and m.lastindex > 1:
            said = m[m.lastindex]
            return m.span(m.lastindex) if said.strip() and "<" not in said else None
    return None


def is_inline(tag: str) -> bool:
    """Whether an element sits inside a line of text."""
    return tag not in APART


@lru_cache(maxsize=4096)
def sets_apart(piece: str) -> bool:
    """Whether the words on both sides of a tag, as it is written, are not one word."""
    name = read_tag(piece)[0]
    return name in ("br", "img") or not is_inline(name)


@lru_cache(maxsize=4096)
def read_tag(piece: str) -> tuple[str, bool]:
    """Return the name of a tag and whether it is an end tag."""
    m = _TAG.match(piece)
    return (m[2], bool(m[1])) if m else ("", False)


def tag_attributes(piece: str) -> dict[str, str]:
    """Return the attributes that a start tag kept; values are still escaped."""
    return attributes(piece[1:-1].partition(" ")[2])
