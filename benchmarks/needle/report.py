"""How the needle benchmark is shown: heatmaps over length and depth, and tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import LinearSegmentedColormap

from benchmarks.common import report as common
from benchmarks.common.reading_report import methods_table
from benchmarks.common.report import Shown
from tokenprune.bench.figures import style, styled, subplots, svg
from tokenprune.bench.page import table

FIELDS = {"answer_kept": "answer kept", "answered": "answer given"}
_COLOURS = LinearSegmentedColormap.from_list("found", ["#f4d9dc", "#f7f3e3", "#9fd0c4", "#1f7a6c"])


@styled
def figure(section: dict[str, Any]) -> Any:
    """One column of panels per method: above whether the answer was kept, below whether it was given."""
    rows, lengths, depths = section["rows"], section["lengths"], section["depths"]
    made, axes = subplots(
        len(FIELDS), len(rows), figsize=(1.75 * len(rows) + 1, 4.6), sharex=True, sharey=True, squeeze=False
    )
    for column, row in enumerate(rows):
        by_cell = {(cell["tokens"], cell["depth"]): cell for cell in row["cells"]}
        for line, (field, label) in enumerate(FIELDS.items()):
            axis = axes[line][column]
            cells = [[by_cell[tokens, depth] for tokens in lengths] for depth in depths]
            values = np.array([[cell[field] / cell["n"] for cell in own] for own in cells])
            axis.imshow(values, cmap=_COLOURS, vmin=0, vmax=1, aspect="auto")
            axis.grid(False)
            for y, own in enumerate(cells):
                for x, cell in enumerate(own):
                    color = "white" if values[y, x] > 0.8 else "#444444"
                    text = f"{cell[field]}/{cell['n']}"
                    axis.text(x, y, text, ha="center", va="center", color=color, fontsize=7)
            axis.set_xticks(range(len(lengths)), [f"{n / 1000:g}k" for n in lengths])
            axis.set_yticks(range(len(depths)), [f"{depth:.0%}" for depth in depths])
            axis.tick_params(length=0, labelsize=8)
            axis.spines[:].set_visible(False)
            if not line:
                axis.set_title(row["method"].replace(" + ", " +\n"), fontsize=8.5)
            if not column:
                axis.set_ylabel(f"{label}\ndepth")
    made.supxlabel("tokens of the prompt", fontsize=9)
    made.tight_layout(w_pad=0.6)
    return made


def _kinds(section: dict[str, Any]) -> str:
    kinds = list(section["rows"][0]["kinds"])
    sizes = section["rows"][0]["kinds"]
    head = ("kept, given of", *(f"{kind} {sizes[kind]['n']}" for kind in kinds))
    body = [
        (row["method"], *(f"{k['answer_kept']}, {k['answered']}" for k in row["kinds"].values()))
        for row in section["rows"]
    ]
    return table(head, body)


SHOWN = {
    "grid": Shown(
        "A needle in a haystack",
        "Kept: the words of the answer are among the tokens that are read to the end. Given: they stand in "
        "the greedy answer. Times are medians over all lengths.",
        lambda section: svg(figure(section)),
        lambda section: [methods_table(section["rows"]), _kinds(section)],
    )
}


def write(report: dict[str, Any], folder: Path) -> None:
    common.write(report, folder, "A needle in a haystack", SHOWN)
    if (section := report["sections"].get("grid")) is not None:
        with style():
            figure(section).savefig(folder / "heatmap.png", dpi=130, bbox_inches="tight")
