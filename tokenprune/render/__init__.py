"""Renderers: units and a mask -> content again."""

from __future__ import annotations

from typing import Protocol

from tokenprune.arrays import BoolArray
from tokenprune.units import Rendered, Units


class Renderer(Protocol):
    """Writes the kept units out; never adds a word."""

    def render(self, units: Units, keep: BoolArray) -> Rendered:
        """Return the output for a mask, bool [n], and where its characters came from."""
        ...
