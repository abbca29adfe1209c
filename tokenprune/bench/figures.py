"""Matplotlib figures as SVG text, in the style and colours of all reports, which end with them."""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import matplotlib
from matplotlib.figure import Figure

P = ParamSpec("P")
T = TypeVar("T")

_STYLE: Any = {  # matplotlib's type of its settings differs between releases
    "font.size": 9,
    "svg.fonttype": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
}
# Ours in warm colours with full lines, others in cold ones with broken lines.
OURS = ["#d1495b", "#edae49", "#8f2d56", "#e07a5f"]
PEERS = ["#30638e", "#00798c", "#6a7fa0", "#7fb7be", "#445566", "#9aa5b1"]


def style() -> AbstractContextManager[None]:
    """Return a context in which figures are drawn, and written, in our style."""
    return matplotlib.rc_context(_STYLE)


def styled(draw: Callable[P, T]) -> Callable[P, T]:
    """Let a function draw in our style."""

    @wraps(draw)
    def drawing(*args: P.args, **kwargs: P.kwargs) -> T:
        with style():
            return draw(*args, **kwargs)

    return drawing


def subplots(rows: int = 1, columns: int = 1, *, figsize: tuple[float, float], **options: Any) -> Any:
    """Return a figure and its axes as pyplot's function of this name does, without pyplot's window system."""
    figure = Figure(figsize=figsize)
    return figure, figure.subplots(rows, columns, **options)


def svg(figure: Figure) -> str:
    """Return a figure as an ``<svg>`` element."""
    buffer = io.StringIO()
    with style():
        figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
