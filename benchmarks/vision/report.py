"""How the sections are shown in report.html."""

from __future__ import annotations

from html import escape
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.common import report as common
from benchmarks.common.report import Shown
from benchmarks.vision.asking import FULL
from tokenprune.bench.figures import OURS, PEERS, styled, subplots, svg
from tokenprune.bench.page import table

_PLAIN = {"uniform": "#999999", "random": "#444444"}  # what a method has to beat


@styled
def _draw_accuracy(section: dict[str, Any]) -> str:
    """Accuracy over the share of visual tokens that the layers of the language model read."""
    figure, axis = subplots(figsize=(7.4, 4.4))
    by_method: dict[str, list[dict[str, Any]]] = {}
    for row in section["rows"]:
        by_method.setdefault(row["method"], []).append(row)
    full = by_method.pop(FULL)[0]["accuracy"]
    colours = [*OURS, *PEERS]
    for number, (name, rows) in enumerate(by_method.items()):
        rows = sorted(rows, key=lambda row: row["kept"])
        axis.plot(
            [100 * row["kept"] for row in rows], [100 * row["accuracy"] for row in rows],
            "--" if name in _PLAIN else "-", marker="o", ms=4, lw=1.3, label=name,
            color=_PLAIN.get(name, colours[number % len(colours)]),
        )  # fmt: skip
    axis.axhline(100 * full, color="#999999", lw=0.8, ls=":")
    axis.axhline(98 * full, color="#cccccc", lw=0.8, ls=":")
    axis.set_xscale("log")
    axis.minorticks_off()
    axis.set_xticks([5, 10, 25, 50, 100], ["5", "10", "25", "50", "100"])
    axis.set(xlabel="visual tokens read, % (mean over layers)", ylabel="answers right, %")
    axis.legend(fontsize=7, ncols=2, frameon=False)
    figure.tight_layout()
    return svg(figure)


def _accuracy(section: dict[str, Any]) -> list[str]:
    types = list(section["rows"][0]["types"])
    head = ("method", "keep", "tokens read", "n", "right", "of all tokens'", *types)
    cells = [
        (
            row["method"],
            "its own" if row["keep"] == 0 else f"{row['keep']:.0%}",
            f"{row['kept']:.1%}",
            str(row["n"]),
            f"{row['accuracy']:.1%}",
            f"{row['of_full']:.1%}",
            *(f"{row['types'][name]:.0%}" for name in types),
        )
        for row in section["rows"]
    ]
    parts = [table(head, cells)]
    parts += [
        f'<p><img style="max-width:100%" src="examples/{escape(f)}"></p>' for f in section.get("examples", ())
    ]
    return parts


@styled
def _draw_flops(section: dict[str, Any]) -> str:
    rows = [row for row in section["rows"] if row["frames"] > 1]
    figure, axis = subplots(figsize=(7, 0.24 * len(rows) + 1))
    places = range(len(rows))
    axis.barh(places, [row["tower"] / 1e9 for row in rows], color=PEERS[2], label="tower and projector")
    axis.barh(
        places, [row["prefill"] / 1e9 for row in rows], left=[row["tower"] / 1e9 for row in rows],
        color=OURS[0], label="language model",
    )  # fmt: skip
    axis.set_yticks(places, [f"{row['method']}, {row['keep']:.0%}" for row in rows], fontsize=7)
    axis.invert_yaxis()
    axis.set(xlabel=f"GFLOP for {rows[0]['visual']:,} visual tokens")
    axis.legend(fontsize=7, frameon=False)
    figure.tight_layout()
    return svg(figure)


def _flops(section: dict[str, Any]) -> list[str]:
    head = (
        "method",
        "keep",
        "visual tokens",
        "rows by layer",
        "tower",
        "prefill",
        "prefill of all",
        "of all",
    )
    cells = [
        (
            row["method"],
            f"{row['keep']:.0%}",
            f"{row['visual']:,}",
            " ".join(map(str, row["rows"])),
            f"{row['tower'] / 1e9:.2f}",
            f"{row['prefill'] / 1e9:.2f}",
            f"{row['prefill_share']:.1%}",
            f"{row['share']:.1%}",
        )
        for row in section["rows"]
    ]
    return [table(head, cells)]


@styled
def _draw_ttft(section: dict[str, Any]) -> str:
    rows = section["rows"]
    bars = [("all tokens", rows[0]["full"]), *((row["method"], row["pruned"]) for row in rows)]
    figure, axis = subplots(figsize=(7, 0.35 * len(bars) + 1))
    left = [0.0] * len(bars)
    for part, colour in (("encode", PEERS[2]), ("select", OURS[1]), ("prefill", OURS[0])):
        widths = [1000 * bar[part] for _, bar in bars]
        axis.barh(range(len(bars)), widths, left=left, color=colour, label=part)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    axis.set_yticks(range(len(bars)), [name for name, _ in bars], fontsize=8)
    axis.invert_yaxis()
    axis.set(xlabel=f"ms, {section['clock']}, median")
    axis.legend(fontsize=7, frameon=False)
    figure.tight_layout()
    return svg(figure)


def _ttft(section: dict[str, Any]) -> list[str]:
    head = ("method", "rounds", "prompt", "encode", "select", "prefill", "total", "sooner", "already encoded")
    cells = []
    for row in section["rows"]:
        for side in ("full", "pruned"):
            parts = row[side]
            times = [f"{1000 * parts[part]:.1f}" for part in ("encode", "select", "prefill", "total")]
            gain = (
                (f"{row['speedup']:.2f}x", f"{row['speedup_encoded']:.2f}x") if side == "pruned" else ("", "")
            )
            name = row["method"] if side == "pruned" else "all tokens beside it"
            cells.append((name, str(row["rounds"]), f"{parts['tokens']:.0f}", *times, *gain))
    return [table(head, cells)]


@styled
def _draw_served(section: dict[str, Any]) -> str:
    sides = list(section["rows"][0])
    figure, axis = subplots(figsize=(7, 0.4 * len(sides) + 1))
    found = [[row[side]["ttft_ms"] for row in section["rows"]] for side in sides]
    axis.boxplot(found, orientation="horizontal", widths=0.5)
    axis.set_yticks(range(1, len(sides) + 1), sides, fontsize=8)
    axis.invert_yaxis()
    axis.set_xlim(left=0)
    axis.set(xlabel="time to the first token, ms")
    figure.tight_layout()
    return svg(figure)


def _served(section: dict[str, Any]) -> list[str]:
    cells = []
    for side in section["rows"][0]:
        found = [row[side] for row in section["rows"]]
        gain = section["ratios"].get(side)
        cells.append(
            (
                side,
                str(len(found)),
                f"{median(one['tokens'] for one in found):.0f}",
                f"{median(one['ttft_ms'] for one in found):.0f}",
                f"{gain['median']:.2f}x ({common.spread(gain['interval'])})" if gain else "",
            )
        )
    return [table(("to", "videos", "prompt", "TTFT, ms", "sooner"), cells)]


SHOWN = {
    "accuracy": Shown(
        "Pictures",
        "Share of right one-word answers by the share of visual tokens that the language model reads (mean "
        "over its layers: methods inside it begin with all of them). The upper dotted line is all tokens, "
        "the lower 98% of it.",
        _draw_accuracy,
        _accuracy,
    ),
    "video": Shown(
        "Videos", "Four frames, 784 visual tokens; what moved, and which way.", _draw_accuracy, _accuracy
    ),
    "flops": Shown(
        "Work",
        "Multiplications and additions, counted from the rows that every layer reads.",
        _draw_flops,
        _flops,
    ),
    "ttft": Shown(
        "Time to the first token",
        "Medians in ms; every pruned run has a run with all tokens beside it, in alternating order. 'Already "
        "encoded' leaves the encoder out on both sides: what a second question about a picture costs.",
        _draw_ttft,
        _ttft,
    ),
    "served": Shown(
        "Through vLLM",
        "A real vLLM with a model of SmolLM2's size behind a random tower: pixels sent to it, to the proxy, "
        "and to the proxy again with another question, when the pictures' rows are still there. Everything "
        "counted.",
        _draw_served,
        _served,
    ),
}


def write(report: dict[str, Any], folder: Path) -> None:
    common.write(report, folder, "Visual tokens left out", SHOWN)
