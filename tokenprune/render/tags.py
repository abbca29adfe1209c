"""Tags as renderers read them."""

from __future__ import annotations

import re
from functools import lru_cache

from tokenprune.segment.html_tags import GENERIC, STRUCTURAL, attributes

# Elements that stand on lines of their own.
BLOCKS = GENERIC | STRUCTURAL
_TAG = re.compile(r"<(/?)([^\s/>]+)")


@lru_cache(maxsize=4096)
def read_tag(piece: str) -> tuple[str, bool]:
    """Return the name of a tag and whether it is an end tag."""
    m = _TAG.match(piece)
    return (m[2], bool(m[1])) if m else ("", False)


def tag_attributes(piece: str) -> dict[str, str]:
    """Return the attributes that a start tag kept; values are still escaped."""
    return attributes(piece[1:-1].partition(" ")[2])
