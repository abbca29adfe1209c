"""Texts of strangers in a picture: fonts that have their characters, and lines that fit a width."""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tokenprune.tokens import sanitize

FAMILY = "DejaVu Sans"  # comes with matplotlib
_MISSING = "\u25a1"
_ELLIPSIS = "\u2026"
_LONGEST = 500  # characters that are tried as one line
# Glyphs that stand for a whole block, or in places that Unicode has for other characters.
_OTHERWISE = ("Last Resort", "cm", "STIXNon", "STIXSize")
_INVISIBLE = frozenset(map(chr, (*range(0xFE00, 0xFE10), 0xAD)))


@dataclass(frozen=True)
class Letters:
    """Fonts for some texts.

    Attributes:
        families: matplotlib's names, tried one after the other for each character.
        missing: Characters that no font has; they are drawn as an empty square.
    """

    families: tuple[str, ...]
    missing: frozenset[str]

    @classmethod
    def of(cls, texts: Iterable[str]) -> Letters:
        """Find fonts on this machine that have all characters of ``texts``.

        A character is drawn together with the marks on it, so one font must have all of them; where none has,
        the marks count as missing.
        """
        marked = {cluster for text in texts for cluster in _clusters(_visible(text))}
        families: dict[str, None] = {FAMILY: None}
        marked = _without_those_in_fonts(marked, families)
        bare = _without_those_in_fonts({cluster[0] for cluster in marked}, families)
        marks = {mark for cluster in marked for mark in cluster[1:]}
        return cls(tuple(families), frozenset(bare | marks))

    @property
    def note(self) -> str:
        """What is to be said of it; "" for nothing."""
        if not self.missing:
            return ""
        first = min(self.missing)
        return (
            f"no font on this machine has {len(self.missing)} of the characters in the picture, "
            f"U+{ord(first):04X} for one: {_MISSING} stands for them"
        )

    def lines(self, text: str, inches: float, size: float, most: int) -> list[str]:
        """Break one paragraph into lines.

        Args:
            text: One of those the letters were found for. Line ends and other white space separate words.
            inches: Width of a line; words that are wider are broken too.
            size: Of the letters, points.
            most: Lines; the last one ends in an ellipsis when there is more.
        """
        shown = "".join(_MISSING if char in self.missing else char for char in _visible(text))
        lines: list[str] = []
        for line in self._broken(shown.split(), inches, size):
            if len(lines) == most:
                lines[-1] = self._cut(lines[-1] + _ELLIPSIS, inches, size, _ELLIPSIS)[0]
                break
            lines.append(line)
        return lines

    def _broken(self, words: list[str], inches: float, size: float) -> Iterator[str]:
        line = ""
        for word in words:
            longer = f"{line} {word}" if line else word
            if self._inches(longer, size) <= inches:
                line = longer
                continue
            if line:
                yield line
            line = word
            while self._inches(line, size) > inches:
                head, line = self._cut(line, inches, size)
                yield head
        if line:
            yield line

    def _cut(self, text: str, inches: float, size: float, end: str = "") -> tuple[str, str]:
        """Return the longest beginning that fits before ``end``, one character at least, and the rest."""
        body = text.removesuffix(end) if end else text
        low, high = 1, min(len(body), _LONGEST)
        while low < high:
            middle = (low + high + 1) // 2
            if self._inches(body[:middle] + end, size) <= inches:
                low = middle
            else:
                high = middle - 1
        return body[:low].rstrip() + end, body[low:]

    def _inches(self, text: str, size: float) -> float:
        from matplotlib.font_manager import FontProperties
        from matplotlib.textpath import TextToPath

        if len(text) > _LONGEST:
            return float("inf")
        font = FontProperties(family=list(self.families), size=size)
        width, _, _ = TextToPath().get_text_width_height_descent(text, font, ismath=False)
        return float(width) / 72


def _visible(text: str) -> str:
    """Leave out what has no glyph of its own, and make white space of what ends lines."""
    return "".join(
        " " if char.isspace() else char
        for char in sanitize(text)
        if char not in _INVISIBLE and unicodedata.category(char) != "Cf"
    )


def _clusters(text: str) -> Iterator[str]:
    """Yield each character with the marks that follow it."""
    cluster = ""
    for char in text:
        if cluster and not unicodedata.category(char).startswith("M"):
            yield cluster
            cluster = ""
        cluster += char
    if cluster:
        yield cluster


def _without_those_in_fonts(wanted: set[str], families: dict[str, None]) -> set[str]:
    """Return the strings that no font has all characters of, and add to ``families`` fonts for the others."""
    for family, has in _fonts():
        if not wanted:
            break
        found = {one for one in wanted if has.issuperset(map(ord, one))}
        if found:
            families[family] = None
        wanted = wanted - found
    return wanted


def _fonts() -> Iterator[tuple[str, frozenset[int]]]:
    """Yield scalable upright fonts, matplotlib's own first, with the characters that each has."""
    from matplotlib.font_manager import fontManager

    entries = {
        entry.name: entry.fname
        for entry in fontManager.ttflist
        if entry.style == "normal" and not entry.name.startswith(_OTHERWISE)
    }
    for name in sorted(entries, key=lambda name: (name != FAMILY, name)):
        if has := _characters(entries[name]):
            yield name, has


@functools.lru_cache(maxsize=256)
def _characters(file: str) -> frozenset[int]:
    from matplotlib.font_manager import get_font

    try:
        font = get_font(file)
    except (OSError, RuntimeError):  # damaged, or of a kind that is not drawn here
        return frozenset()
    return frozenset(font.get_charmap()) if font.scalable else frozenset()
