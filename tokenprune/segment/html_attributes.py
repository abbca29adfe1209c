"""Attributes that stay when a page is cleaned."""

from __future__ import annotations

import re
from collections.abc import Collection
from html import escape

from tokenprune.segment.entities import unescape
from tokenprune.segment.html_tags import attributes
from tokenprune.segment.invisible import drop_invisible

# Addresses that run as a script, read as browsers do; they say nothing to a reader and harm who follows them.
_ADDRESSES = frozenset("href src action formaction data poster cite longdesc background xlink:href".split())
# What numbers the items of lists otherwise than from 1: with it, people see other numbers.
NUMBERS = ("start", "value", "reversed")
_INTEGER = re.compile(r"[ \t\n\f\r]*([-+]?[0-9]{1,9})(?![0-9])")
_IGNORED = re.compile(r"[\x00-\x20]+")
_RUNS = re.compile(r"javascript:|vbscript:|data:(?:text/html|application/xhtml\+xml)", re.I)


def kept_attributes(source: str, keep: Collection[str], *, drop_hidden: bool) -> str:
    """Return those attributes of a start tag that stay, as they are written, each with a space before it.

    Args:
        source: attributes as the page writes them.
        keep: lower-case names of those that stay; addresses that run as a script do not.
        drop_hidden: whether characters that nobody sees go.
    """
    shown = {k: unescape(v) for k, v in attributes(source).items() if k in keep}
    if drop_hidden:
        shown = {k: drop_invisible(v, entities=False)[0] for k, v in shown.items()}
    shown = {k: v for k, v in shown.items() if k not in _ADDRESSES or not _RUNS.match(_IGNORED.sub("", v))}
    return "".join(f' {k}="{escape(v)}"' for k, v in shown.items())


def numbers_of(source: str, but: Collection[str]) -> str:
    """Return those attributes of a list or an item that number it, written briefly, but for some.

    Only integers, as browsers read them: elsewhere anything could be said that nobody sees.
    """
    found = attributes(source)
    written = ""
    for name in NUMBERS:
        if name in found and name not in but:
            number = integer(unescape(found[name]))
            written += " reversed" if name == "reversed" else "" if number is None else f" {name}={number}"
    return written


def integer(value: str) -> int | None:
    """Read an attribute as browsers read integers (HTML standard, section 2.3.4.1); None: they see none.

    What stands behind the digits does not count. More than nine digits are no number that anybody means.
    """
    found = _INTEGER.match(value)
    return int(found[1]) if found else None
