"""Raised and lowered letters, fractions and roots in a line: ``x^2``, ``x_i``, ``(a+b)/2``, ``√x``."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from tokenprune.segment.html_tags import PARTED_MATH

WHITE = " \t\n\r\f"
_SIMPLE = re.compile(r"[-+\u2212]?\w+")
# Raised letters that are read with what they follow: 1st, 2e, nº, Acme(TM).
_ORDINALS = frozenset("st nd rd th e er re ère ème o a tm sm r".split())
_BASES = ")]\u2211\u220f\u222b\u22c3\u22c2"  # beside letters and digits: brackets, sums, products, integrals
_VARIABLE = re.compile(r"(?:.*[^\w])?[a-z]", re.S)
# Tags of formulas that may be in an output.
MATH = PARTED_MATH | frozenset(
    "menclose mfenced mi mn mo mover mpadded mrow ms mspace msqrt mstyle msub msubsup msup mtable mtext"
    " munder munderover".split()
)


def script(name: str, before: str, content: str) -> tuple[str, str]:
    """What stands before and behind a ``sup`` or ``sub``: marks, or nothing where it reads well without.

    Args:
        name: of the element.
        before: some of what stands before it in the line.
        content: what it holds.
    """
    inner = content.strip(WHITE)
    last = before[-1:]
    if not inner or content[0] in WHITE or not last or not (last.isalnum() or last in _BASES):
        return "", ""
    if name == "sup":
        plain = inner.lower() in _ORDINALS or not (inner[0].isalnum() or inner[0] in "+-\u2212")
    else:  # H2O, but x_2
        bare = inner.isdecimal() and not last.isdecimal() and not _VARIABLE.fullmatch(before)
        plain = not inner[0].isalnum() or bare
    if plain:
        return "", ""
    mark = "^" if name == "sup" else "_"
    return (mark, "") if _SIMPLE.fullmatch(inner) else (f"{mark}(", ")")


@dataclass
class _Open:
    """An open element of a formula: its name, its first part and how many elements it has held."""

    name: str
    part: int
    held: int = 0


class Formulas:
    """Writes fractions and roots.

    Args:
        text: the parts of the line so far.
        add: a part and the piece it is made of -> its place in the line.
    """

    def __init__(self, text: Callable[[], list[str]], add: Callable[[str, int], int]) -> None:
        self._text, self._add = text, add
        self._open: list[_Open] = []

    def start(self, name: str, piece: int) -> None:
        """Meet a start tag."""
        self._open.append(_Open(name, self._add("", piece)))

    def end(self, name: str, piece: int) -> None:
        """Meet an end tag."""
        if not self._open or self._open[-1].name != name:
            return
        e = self._open.pop()
        outer = self._open[-1] if self._open else None
        text = self._text()
        inside = "".join(text[e.part :]).strip(WHITE)
        root = name == "msqrt"
        if root or (outer is not None and outer.name in PARTED_MATH):
            marks = ("", "") if _SIMPLE.fullmatch(inside) else ("(", ")")
            text[e.part] = ("\u221a" if root else "") + marks[0]
            self._add(marks[1], piece)
        if outer is not None and outer.name in PARTED_MATH:
            outer.held += 1
            if outer.held == 1:
                self._add("/" if outer.name == "mfrac" else "^(1/", piece)
            elif outer.held == 2 and outer.name == "mroot":
                self._add(")", piece)

    def clear(self) -> None:
        """Forget what is open."""
        self._open.clear()
