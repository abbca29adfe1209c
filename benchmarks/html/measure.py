"""What is measured: evidence that survives, token F1, slopes. Pure functions."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from html import unescape

import numpy as np

# Elements inside a line of text: where their tags go, no word is split.
INLINE = frozenset(
    "a abbr acronym b bdi bdo big cite code data del dfn em font i ins kbd label mark q s samp small span"
    " strike strong sub sup time tt u var wbr".split()
)
_HIDDEN = re.compile(r"<!--.*?-->|<(script|style)\b[^<>]*>.*?</\1\s*>|<[!?][^<>]*>", re.S | re.I)
_TAG = re.compile(r"</?([a-zA-Z][a-zA-Z0-9]*)[^<>]*>")
_WORD = re.compile(r"\w+")


def fold(text: str) -> str:
    """Fold white space and case."""
    return " ".join(text.split()).lower()


def visible_text(html: str) -> str:
    """Return the words of some HTML, folded: inline tags leave no trace, all others part words.

    A number behind a tag's name is ignored (``span3``): the htmlrag package renames elements so.
    """

    def gap(match: re.Match[str]) -> str:
        name = match[1].lower()
        return "" if name in INLINE or name.rstrip("0123456789") in INLINE else " "

    return fold(unescape(_TAG.sub(gap, _HIDDEN.sub("", html))))


def reading(output: str, form: str) -> str:
    """Return the folded words of an output: ``html``, or ``text`` where signs mean themselves."""
    return visible_text(output) if form == "html" else fold(output)


def share_kept(words: str, key_sentences: Sequence[str]) -> float:
    """Share of the key sentences that folded ``words`` contain."""
    return sum(fold(sentence) in words for sentence in key_sentences) / len(key_sentences)


def row_kept(words: str, gold_rows: Sequence[str]) -> float:
    """1 when some gold row (cells parted by ``|``) stands whole in folded ``words``, else 0.

    Stricter than `share_kept` for tables, whose short answers also occur elsewhere on the page. White space
    is left out of the comparison: pages differ in where they put it between cells.
    """
    squeezed = "".join(words.split())
    return float(any("".join(row.replace("|", " ").split()).lower() in squeezed for row in gold_rows))


def token_f1(text: str, gold: str) -> float:
    """F1 of the multisets of lower-case ``\\w+`` tokens; two empty texts agree."""
    mine, wanted = Counter(_WORD.findall(text.lower())), Counter(_WORD.findall(gold.lower()))
    if not mine or not wanted:
        return float(not mine and not wanted)
    common = (mine & wanted).total()
    return 2 * common / (mine.total() + wanted.total())


def slope(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """Exponent of a power law through the points: 1 is linear time, 2 quadratic."""
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])
