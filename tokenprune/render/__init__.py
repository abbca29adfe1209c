"""Renderers: units and a mask -> content again."""

from __future__ import annotations

from typing import Protocol

from tokenprune.arrays import BoolArray
from tokenprune.errors import ConfigError
from tokenprune.units import Rendered, Units

OUTPUTS = ("same", "html", "text", "markdown")


class Renderer(Protocol):
    """Writes the kept units out; never adds a word."""

    def render(self, units: Units, keep: BoolArray) -> Rendered:
        """Return the output for a mask, bool [n], and where its characters came from."""
        ...


def renderer(output: str) -> Renderer:
    """Return the renderer of an output form.

    Args:
        output: ``same`` (HTML stays HTML, without the end tags that its standard makes optional), ``html``
            (the same with all of them), ``text`` (words without markup) or ``markdown`` (CommonMark with GFM
            tables). Text documents stay as they are in every form.

    Raises:
        ConfigError: there is no such form.
    """
    from tokenprune.render.markdown import Markdown
    from tokenprune.render.source import SameForm
    from tokenprune.render.text import PlainText

    if output not in OUTPUTS:
        raise ConfigError(f"unknown output {output!r}; known outputs: {', '.join(OUTPUTS)}")
    forms: dict[str, Renderer] = {
        "same": SameForm(),
        "html": SameForm(brief=False),
        "text": PlainText(),
        "markdown": Markdown(),
    }
    return forms[output]
