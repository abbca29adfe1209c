"""How the sections are shown in report.html."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

from benchmarks.common import report as common
from benchmarks.common.report import Shown, nll_cells, spread
from tokenprune.bench.figures import OURS, PEERS, styled, subplots, svg
from tokenprune.bench.page import table


@styled
def _draw_answers(section: dict[str, Any]) -> str:
    rows = sorted(section["rows"], key=lambda r: -r["nll"])
    figure, axis = subplots(figsize=(8, 0.32 * len(rows) + 1))
    for y, row in enumerate(rows):
        low, high = row["nll_ci"]
        color = OURS[0] if row["ours"] else PEERS[0]
        bars = [[row["nll"] - low], [high - row["nll"]]]
        axis.errorbar(row["nll"], y, xerr=bars, fmt="o", color=color, elinewidth=0.8, ms=5)
    labels = [f"{r['context']} ({r['tokens']:.0f} tokens)" for r in rows]
    axis.set_yticks(range(len(rows)), labels)
    axis.set(xlabel="nats per answer token with 95% interval, lower is better")
    return svg(figure)


def _answers(section: dict[str, Any]) -> list[str]:
    cells = [(*nll_cells(row), f"{row['evidence']:.3f}") for row in section["rows"]]
    head = ("context", "n", "tokens", "NLL", "95%", f"against {section['reference']}", "95%", "evidence kept")
    return [table(head, cells, [row["ours"] for row in section["rows"]])]


@styled
def _draw_ranking(section: dict[str, Any]) -> str:
    figure, axes = subplots(1, len(section["sets"]), figsize=(9, 2.6))
    for axis, (name, rows) in zip(axes, section["sets"].items(), strict=True):
        colors = [OURS[0] if r["ours"] else PEERS[0] for r in rows][::-1]
        bars = axis.barh([r["method"] for r in rows][::-1], [r["ndcg"] for r in rows][::-1], color=colors)
        axis.bar_label(bars, [f"{r['ndcg']:.3f}" for r in rows][::-1], label_type="center", color="white")
        axis.set(title=name, xlim=(0, 1))
    figure.tight_layout()
    return svg(figure)


def _ranking(section: dict[str, Any]) -> list[str]:
    parts = []
    for name, rows in section["sets"].items():
        cells = [
            (
                r["method"],
                str(r["n"]),
                f"{r['ndcg']:.3f}",
                spread(r["ndcg_ci"]),
                f"{r['difference']:+.3f}" if "difference" in r else "",
                spread(r["difference_ci"], True) if "difference" in r else "",
            )
            for r in rows
        ]
        head = ("method", "lists", f"nDCG@{section['k']}", "95%", "against MiniLM cosine", "95%")
        parts += [f"<h3>{escape(name)}</h3>", table(head, cells, [r["ours"] for r in rows])]
    return parts


@styled
def _draw_sweep(section: dict[str, Any]) -> str:
    figure, axes = subplots(1, 2, figsize=(11, 3.8))
    ours, peers = iter(OURS * 3), iter(PEERS * 3)
    for label, curve in section["curves"].items():
        color = next(ours) if curve["ours"] else next(peers)
        style = "o-" if curve["kind"] == "threshold" else "s--"
        x = [p["compression"] for p in curve["points"]]
        for axis, field in zip(axes, ("evidence", "nll"), strict=True):
            axis.plot(x, [p[field] for p in curve["points"]], style, ms=4, lw=1.2, color=color, label=label)
        if curve["kind"] == "threshold":
            for point in curve["points"]:
                axes[0].annotate(f"{point['at']:g}", (point["compression"], point["evidence"]), fontsize=7)
    axes[0].set(xlabel="share of the tokens dropped", ylabel="evidence sentences kept")
    axes[1].set(xlabel="share of the tokens dropped", ylabel="NLL of the answer, lower is better")
    axes[0].legend(frameon=False, fontsize=8)
    figure.tight_layout()
    return svg(figure)


def _sweep(section: dict[str, Any]) -> list[str]:
    cells, ours = [], []
    for label, curve in section["curves"].items():
        for p in curve["points"]:
            cells.append(
                (
                    label,
                    f"{p['at']:g}",
                    f"{p['tokens']:.0f}",
                    f"{p['compression']:.3f}",
                    f"{p['evidence']:.3f}",
                    f"{p['nll']:.3f}",
                )
            )
            ours.append(curve["ours"])
    return [table(("curve", "at", "tokens", "dropped", "evidence kept", "NLL"), cells, ours)]


@styled
def _draw_cost(section: dict[str, Any]) -> str:
    rows = section["rows"]
    names = ["direct", *(r["method"] for r in rows)][::-1]
    prune = [0.0, *(r["prune"] for r in rows)][::-1]
    ttft = [section["direct"]["ttft"], *(r["ttft"] for r in rows)][::-1]
    figure, axis = subplots(figsize=(8, 0.4 * len(names) + 1))
    axis.barh(names, prune, color=OURS[0], label="pruning")
    bars = axis.barh(names, ttft, left=prune, color=PEERS[0], label="first token of what is left")
    axis.bar_label(bars, [f"{a + b:.2f} s" for a, b in zip(prune, ttft, strict=True)], padding=3, fontsize=8)
    axis.set(xlabel="seconds, median", xlim=(0, 1.15 * section["direct"]["ttft"]))
    axis.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    return svg(figure)


def _cost(section: dict[str, Any]) -> list[str]:
    direct = section["direct"]
    cells = [("direct", f"{direct['tokens']:.0f}", "", f"{direct['ttft']:.3f}", "", "", "1.0", "")]
    for r in section["rows"]:
        cells.append(
            (
                r["method"],
                f"{r['tokens']:.0f}",
                f"{r['prune']:.3f}",
                f"{r['ttft']:.3f}",
                f"{r['share']:.1%}",
                spread(r["share_ci"]),
                f"{r['speedup']:.1f}",
                spread(r["speedup_ci"]),
            )
        )
    head = ("method", "tokens", "pruning s", "TTFT s", "pruning / direct TTFT", "95%", "times faster", "95%")
    return [table(head, cells, [False, *(r["ours"] for r in section["rows"])])]


@styled
def _draw_formats(section: dict[str, Any]) -> str:
    names = list(section["seconds"])[::-1]
    figure, axis = subplots(figsize=(7, 1.4))
    bars = axis.barh(names, [section["seconds"][n] for n in names], color=[PEERS[0], OURS[0]])
    axis.bar_label(bars, fmt="%.2f s", padding=3, fontsize=8)
    axis.set(xlabel=f"seconds for {section['tokens']:.0f} tokens, median")
    return svg(figure)


def _formats(section: dict[str, Any]) -> list[str]:
    names = list(section["seconds"])
    head = ("lists", "rounds", "threads", *names, "times faster", "95%", "keep differs by", "rank by")
    cells = (
        str(section["n"]),
        str(section["rounds"]),
        str(section["threads"]),
        *(f"{section['seconds'][name]:.3f} s" for name in names),
        f"{section['faster']:.2f}",
        spread(section["faster_ci"]),
        f"{section['keep_difference']:.1e}",
        f"{section['rank_difference']:.1e}",
    )
    return [table(head, [cells], [True])]


SHOWN = {
    "answers": Shown(
        "Gold answer under a small model",
        "nq20 test lists, 20 passages in random order; mean negative log-likelihood per token of the first "
        "gold answer. Evidence: sentences of the gold passage that hold an answer.",
        _draw_answers,
        _answers,
    ),
    "ranking": Shown(
        "Reranking", "Test lists; one relevant passage among the list's.", _draw_ranking, _ranking
    ),
    "sweep": Shown(
        "Thresholds and budgets",
        "Curves by threshold adapt to the passage; curves by share keep so much of every list.",
        _draw_sweep,
        _sweep,
    ),
    "cost": Shown(
        "What pruning costs",
        "nq20 test lists on a real server, direct and pruned in turn, no prefix cached; medians. Pruning is "
        "counted in times faster.",
        _draw_cost,
        _cost,
    ),
    "formats": Shown(
        "Torch and ONNX Runtime",
        "provence-mini reads the 20 passages of nq20 test lists, both on the same batches and in turn.",
        _draw_formats,
        _formats,
    ),
}


def write(report: dict[str, Any], folder: Path) -> None:
    common.write(report, folder, "Answers after pruning", SHOWN)
