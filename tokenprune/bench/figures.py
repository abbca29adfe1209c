"""Matplotlib figures as SVG text, in the colours of all reports."""

from __future__ import annotations

import io
from typing import Any

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

__all__ = ["OURS", "PEERS", "plt", "svg"]

matplotlib.rcParams.update(
    {
        "font.size": 9,
        "svg.fonttype": "none",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.alpha": 0.25,
    }
)
# Ours in warm colours with full lines, others in cold ones with broken lines.
OURS = ["#d1495b", "#edae49", "#8f2d56", "#e07a5f"]
PEERS = ["#30638e", "#00798c", "#6a7fa0", "#7fb7be", "#445566", "#9aa5b1"]


def svg(figure: Any) -> str:
    """Return a pyplot figure as an ``<svg>`` element, and close it."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)
    text = buffer.getvalue()
    return text[text.index("<svg") :]
