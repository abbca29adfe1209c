"""How the sections are shown in report.html."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.common import report as common
from benchmarks.common.report import Shown, spread
from tokenprune.bench.figures import OURS, PEERS, styled, subplots, svg
from tokenprune.bench.page import table


@styled
def draw(section: dict[str, Any]) -> str:
    """A point per set and method, and the mean over the sets below them."""
    sets = section["sets"]
    names = list(section["methods"])
    ours, peers = iter(OURS * 3), iter(PEERS * 3)
    colors = {n: next(ours) if section["methods"][n]["ours"] else next(peers) for n in names}
    figure, axes = subplots(1, 2, figsize=(11, 0.4 * len(sets) + 2), sharey=True)
    rows = [*sets, "mean"][::-1]
    for axis, field, title in zip(
        axes,
        ("auc", "recall"),
        ("ROC-AUC of a question's sentences", f"evidence kept at {section['share']:.0%} of the words"),
        strict=True,
    ):
        for name in names:
            values = [
                section["mean"][name][field] if row == "mean" else sets[row]["rows"][name][field]
                for row in rows
            ]
            style = "o" if section["methods"][name]["ours"] else "s"
            label = section["methods"][name]["label"]
            axis.plot(values, range(len(rows)), style, ms=5, color=colors[name], label=label)
        axis.axhline(0.5, color="#999", lw=0.8)
        axis.set_yticks(range(len(rows)), rows)
        axis.set(xlabel=title)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper center", ncols=5, bbox_to_anchor=(0.5, 0.02), frameon=False)
    figure.tight_layout(rect=(0, 0.03, 1, 1))
    return svg(figure)


def tables(section: dict[str, Any]) -> list[str]:
    names, sets = list(section["methods"]), section["sets"]
    labels = [section["methods"][n]["label"] for n in names]
    ours = [section["methods"][n]["ours"] for n in names]
    parts = []
    for field, title in (("auc", "ROC-AUC"), ("recall", "Evidence kept")):
        cells = [
            (
                label,
                f"{section['mean'][n][field]:.3f}",
                *(f"{sets[s]['rows'][n][field]:.3f}" for s in sets),
            )
            for n, label in zip(names, labels, strict=True)
        ]
        parts += [f"<h3>{title}</h3>", table(("method", "mean", *sets), cells, ours)]
    cells = [
        (
            name,
            str(content["questions"]),
            f"{content['sentences']:.1f}",
            f"{content['positives']:.0%}",
            *(spread(content["rows"][n]["auc_ci"]) for n in names),
        )
        for name, content in sets.items()
    ]
    parts.append("<h3>The sets, and 95% intervals of the ROC-AUC</h3>")
    parts.append(table(("set", "questions", "sentences each", "positive", *labels), cells))
    cells = [
        (label, f"{section['mean'][n]['words']:.3f}", f"{section['mean'][n]['seconds'] * 1000:.1f}")
        for n, label in zip(names, labels, strict=True)
    ]
    parts.append("<h3>What it took</h3>")
    parts.append(table(("method", "share of the words kept", "ms a question"), cells, ours))
    return parts


SHOWN = {
    "sentences": Shown(
        "Which sentences matter",
        "Test documents of each set; questions with positive and other sentences only. Sentences of all "
        "passages of a question are ranked together; the mean counts every set the same.",
        draw,
        tables,
    )
}


def write(report: dict[str, Any], folder: Path) -> None:
    common.write(report, folder, "Sentence relevance", SHOWN)
