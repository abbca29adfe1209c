"""Reading CSS as far as it says what is seen: declarations, numbers with units, lengths in px."""

from __future__ import annotations

import re

from tokenprune.segment.entities import unescape

FONT = 16.0  # px, where none is known

_COMMENT = re.compile(r"/\*.*?(?:\*/|\Z)", re.S)
_ESCAPE = re.compile(r"\\(?:([0-9a-f]{1,6})\s?|(.))", re.I | re.S)
_DECLARATION = re.compile(
    r"(?<![\w-])([\w-]++)\s*+:((?:[^;\"'()]++|\"[^\"]*+\"?|'[^']*+'?|\((?:[^()\"']++|\"[^\"]*+\"?|'[^']*+'?"
    r"|\([^()]*+\)?)*+\)?|\))*+)"
)
_LENGTH = re.compile(
    r"(?<![\w.#-])([+-]?(?:\d++(?:\.\d*+)?|\.\d++)(?:e[+-]?\d{1,2})?)"
    r"(px|pt|pc|in|cm|mm|q|rem|em|ex|ch|%|vw|vh|vmin|vmax)?(?![\w.])"
)
PX = {
    "": 1.0, "px": 1.0, "pt": 4 / 3, "pc": 16.0, "in": 96.0, "cm": 37.8, "mm": 3.78, "q": 0.945,
    "rem": FONT, "em": FONT, "ex": 8.0, "ch": 8.0, "vw": 10.0, "vh": 10.0, "vmin": 10.0, "vmax": 10.0,
}  # fmt: skip


def declarations(style: str) -> dict[str, str]:
    """Return properties and values, lower-cased; the last one wins, or the last important one.

    Args:
        style: an inline style, or what stands between the braces of a rule.
    """
    return _read(style)[0]


def important(style: str) -> set[str]:
    """Return the properties of which a style says that they are ``!important``."""
    return _read(style)[1] if "!" in style or "\\" in style else set()


def _read(style: str) -> tuple[dict[str, str], set[str]]:
    style = unescape(style)
    if "/*" in style:
        style = _COMMENT.sub("", style)
    if "\\" in style:
        style = _ESCAPE.sub(_plain, style)
    found: dict[str, str] = {}
    firm: set[str] = set()
    for m in _DECLARATION.finditer(style.lower()):
        name, value = m[1], m[2].strip()
        if "!" in value:
            value, _, mark = value.partition("!")
            value = value.strip()
            if mark.strip() != "important":
                continue
            firm.add(name)
        elif name in firm:
            continue
        if value:
            found[name] = value
    return found, firm


def _plain(escape: re.Match[str]) -> str:
    if escape[1] is None:
        return escape[2]
    code = int(escape[1], 16)
    return chr(code) if 0 < code < 0x110000 else "\ufffd"


def numbers(value: str) -> list[tuple[float, str]]:
    """Return all numbers of a value with their units, "" for none."""
    return [(float(n), unit or "") for n, unit in _LENGTH.findall(value)]


def in_px(value: str | None) -> float | None:
    """Return a single length in px; None where there is none or it depends on the surroundings."""
    found = numbers(value) if value else []
    if len(found) != 1 or "(" in str(value):
        return None
    number, unit = found[0]
    if unit == "%" or (not unit and number):
        return 0.0 if not number else None
    return number * PX[unit]
