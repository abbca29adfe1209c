"""How the sections are shown in report.html."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

from benchmarks.common import report as common
from benchmarks.common.reading_report import methods_table
from benchmarks.common.report import Shown, spread
from tokenprune.bench.figures import OURS, PEERS, styled, subplots, svg
from tokenprune.bench.page import table


@styled
def _draw_quality(section: dict[str, Any]) -> str:
    """NLL against full over times faster: what lies to the right of 1 and below 0.05 is gained."""
    sets = section["sets"]
    figure, axes = subplots(1, len(sets), figsize=(4.4 * len(sets), 3.8), squeeze=False)
    for axis, (name, rows) in zip(axes[0], sets.items(), strict=True):
        for row in rows:
            ours = "gemfilter-q" in row["method"] or "provence" in row["method"]
            axis.plot(row["speedup"], row["nll_gap"], "o", ms=5, color=(OURS if ours else PEERS)[0])
            axis.annotate(
                row["method"], (row["speedup"], row["nll_gap"]), xytext=(4, 3), textcoords="offset points",
                fontsize=7,
            )  # fmt: skip
        axis.axhline(0.05, color="#999999", lw=0.8, ls=":")
        axis.set_xscale("log")
        axis.minorticks_off()
        ticks = [tick for tick in (0.5, 1, 2, 3, 5, 10, 20) if tick <= 1.6 * max(r["speedup"] for r in rows)]
        axis.set_xticks(ticks, [f"{tick:g}x" for tick in ticks])
        axis.set(title=f"{name}, {rows[0]['n']} cases", xlabel="first token sooner than with the full prompt")
    axes[0][0].set_ylabel("NLL of the gold answer against full")
    figure.tight_layout()
    return svg(figure)


def _quality(section: dict[str, Any]) -> list[str]:
    parts = []
    for name, rows in section["sets"].items():
        parts += [f"<h3>{escape(name)}</h3>", methods_table(rows)]
    return parts


@styled
def _draw_sweep(section: dict[str, Any]) -> str:
    rows = sorted(section["rows"], key=lambda row: -row["nll"])
    figure, axis = subplots(figsize=(8, 0.22 * len(rows) + 1))
    for y, row in enumerate(rows):
        low, high = row["nll_gap_ci"]
        bars = [[row["nll_gap"] - low], [high - row["nll_gap"]]]
        color = OURS[0] if "sentences" in row["choice"] else PEERS[0]
        axis.errorbar(row["nll_gap"], y, xerr=bars, fmt="o", ms=4, elinewidth=0.8, color=color)
    axis.set_yticks(range(len(rows)), [row["choice"] for row in rows], fontsize=7)
    axis.axvline(0.05, color="#999999", lw=0.8, ls=":")
    axis.set(xlabel="NLL of the gold answer against the full prompt, 95% interval")
    return svg(figure)


def _sweep(section: dict[str, Any]) -> list[str]:
    head = ("choice", "n", "tokens kept", "answer kept", "NLL", "against full", "95%")
    cells = [
        (
            row["choice"],
            str(row["n"]),
            f"{row['kept']:.0f}",
            f"{row['answer_kept']}/{row['answerable']}",
            f"{row['nll']:.3f}",
            f"{row['nll_gap']:+.3f}",
            spread(row["nll_gap_ci"], True),
        )
        for row in section["rows"]
    ]
    return [table(head, cells)]


SHOWN = {
    "quality": Shown(
        "Answers and the time to the first token",
        "Each case is read by all methods in turn in our engine. Kept: the words of an answer stand among "
        "the tokens that are read to the end. NLL: of the first gold answer, nats per token.",
        _draw_quality,
        _quality,
    ),
    "sweep": Shown(
        "Which choice of tokens",
        "Attention of the question in layer r, averaged over neighbours (pool); k tokens stay.",
        _draw_sweep,
        _sweep,
    ),
}


def write(report: dict[str, Any], folder: Path) -> None:
    common.write(report, folder, "Prompt tokens left out", SHOWN)
