"""The output in the form of the input: HTML stays HTML with its original tags, text stays text."""

from __future__ import annotations

from dataclasses import dataclass

from tokenprune.arrays import BoolArray
from tokenprune.render.item_numbers import renumbered
from tokenprune.units import Rendered, Units


@dataclass(frozen=True)
class SameForm:
    """Join the pieces of kept units and the tags of the wrappers around them.

    Items of ordered lists keep the number they had: they say it where items before them are dropped.

    Args:
        brief: whether HTML leaves out the tags that the standard makes optional.
    """

    brief: bool = True

    def render(self, units: Units, keep: BoolArray) -> Rendered:
        """Return the kept pieces in document order."""
        mask = units.piece_mask(keep)
        written = {} if units.pieces.tag is None else renumbered(units.pieces, mask)
        return units.pieces.join(mask, brief=self.brief, written=written)
