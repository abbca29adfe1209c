"""What units cost in the form they are rendered in."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tokenprune.render import Renderer
from tokenprune.render.source import SameForm
from tokenprune.tokens import TokenCounter, counts_between
from tokenprune.units import Units


def priced(units: Units, renderer: Renderer, counter: TokenCounter) -> Units:
    """Return units whose costs are tokens of a renderer's output with everything kept.

    A segmenter counts what stands in the pieces, tags included. Markdown and plain text need fewer tokens,
    above all in tables, and a selection by the wrong costs leaves a small budget unused. Costs one rendering
    and one count of the whole document.

    Args:
        units: of one document.
        renderer: that will render them; one that does not tell whose its parts are changes nothing.
        counter: of tokens.
    """
    if not len(units) or renderer == SameForm():  # what segmenters count
        return units
    rendered = renderer.render(units, np.ones(len(units), dtype=bool))
    owner = rendered.owner
    if owner is None or not len(owner):
        return units
    bounds = np.append(rendered.offsets.out_start, len(rendered.text))
    tokens = counts_between(counter.starts(rendered.text), bounds)
    cost, wrapper_cost = np.zeros_like(units.cost), np.zeros_like(units.wrapper_cost)
    own = owner >= 0
    np.add.at(cost, owner[own], tokens[own])
    np.add.at(wrapper_cost, -1 - owner[~own], tokens[~own])
    return replace(units, cost=cost, wrapper_cost=wrapper_cost)
