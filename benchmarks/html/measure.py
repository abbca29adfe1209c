"""What is measured beside tokenprune/quality.py: rows of tables, F1 of pages, slopes. Pure functions."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

_WORD = re.compile(r"\w+")


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
