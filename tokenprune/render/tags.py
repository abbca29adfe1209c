"""Tags as renderers read them."""

from __future__ import annotations

import re
from functools import lru_cache

from tokenprune.segment.html_source import attributes

# Elements that stand on lines of their own.
BLOCKS = frozenset(
    "div section article main header footer nav aside figure form fieldset address hgroup search details"
    " dialog dir menu title h1 h2 h3 h4 h5 h6 p pre textarea listing blockquote ul ol li dl dt dd table"
    " caption thead tbody tfoot tr td th figcaption legend summary select optgroup option".split()
)
HEADINGS = frozenset(("h1", "h2", "h3", "h4", "h5", "h6"))
PRE = frozenset(("pre", "textarea", "listing"))
CELLS = frozenset(("td", "th"))
_TAG = re.compile(r"<(/?)([^\s/>]+)")


@lru_cache(maxsize=4096)
def read_tag(piece: str) -> tuple[str, bool]:
    """Return the name of a tag and whether it is an end tag."""
    m = _TAG.match(piece)
    return (m[2], bool(m[1])) if m else ("", False)


def tag_attributes(piece: str) -> dict[str, str]:
    """Return the attributes that a start tag kept; values are still escaped."""
    return attributes(piece[1:-1].partition(" ")[2])
