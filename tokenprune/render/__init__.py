"""Renderers: units and a mask -> content again."""

from __future__ import annotations

from typing import Protocol

from tokenprune.arrays import BoolArray
from tokenprune.errors import ConfigError
from tokenprune.units import Rendered, Units

OUTPUTS = ("same", "text")


class Renderer(Protocol):
    """Writes the kept units out; never adds a word."""

    def render(self, units: Units, keep: BoolArray) -> Rendered:
        """Return the output for a mask, bool [n], and where its characters came from."""
        ...


def renderer(output: str) -> Renderer:
    """Return the renderer of an output form: ``same`` (HTML stays HTML) or ``text`` (words without markup).

    Raises:
        ConfigError: there is no such form.
    """
    from tokenprune.render.source import SameForm
    from tokenprune.render.text import PlainText

    if output not in OUTPUTS:
        raise ConfigError(f"unknown output {output!r}; known outputs: {', '.join(OUTPUTS)}")
    return SameForm() if output == "same" else PlainText()
