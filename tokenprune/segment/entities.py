"""Reading character references."""

from __future__ import annotations

import html
import re

_HUGE = re.compile(r"&#0*[1-9]\d{999,}")


def unescape(text: str) -> str:
    """Read character references as ``html.unescape`` does, which fails at numbers of thousands of digits."""
    try:
        return html.unescape(text)
    except ValueError:
        return html.unescape(_HUGE.sub("&#1114112", text))
