"""Plain text out of HTML units."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from html import unescape

import numpy as np

from tokenprune.arrays import BoolArray
from tokenprune.units import Pieces, Rendered, Units

_LINE = re.compile(
    r"</?(?:br|p|div|section|article|main|header|footer|nav|aside|h[1-6]|title|pre|ul|ol|dl|li|dt|dd|table|tr"
    r"|blockquote|caption|figure|form|fieldset|option|textarea)\b",
    re.I,
)
_CELL = re.compile(r"<t[dh]\b", re.I)


@dataclass(frozen=True)
class PlainText:
    """Words without markup: a line per block, cells of a row set apart by tabs."""

    def render(self, units: Units, keep: BoolArray) -> Rendered:
        """Return the kept words."""
        pieces = units.pieces
        if pieces.tag is None:
            return pieces.join(units.piece_mask(keep))
        mask = units.piece_mask(keep)
        texts = [""] * len(pieces.text)
        end = "\n"  # how the text so far ends, to write one line end where blocks meet
        for i in np.flatnonzero(mask).tolist():
            piece = pieces.text[i]
            if not pieces.tag[i]:
                piece = unescape(piece)
                if end == "\n" and piece.isspace():
                    continue
            elif _LINE.match(piece):
                piece = "" if end == "\n" else "\n"
            else:
                piece = "\t" if _CELL.match(piece) and end != "\n" else ""
            texts[i] = piece
            end = piece[-1] if piece else end
        plain: Pieces = replace(pieces, text=texts, brief=None)
        rendered = plain.join(mask)
        return Rendered(rendered.text.rstrip("\n\t"), replace(rendered.offsets, resolve=None), "text")
