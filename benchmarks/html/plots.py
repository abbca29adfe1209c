"""Figures of the report, as SVG text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tokenprune.bench.figures import OURS, PEERS, styled, subplots, svg


def _styles(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    ours, peers = iter(OURS * 3), iter(PEERS * 3)
    return {
        row["method"]: {"color": next(ours), "ls": "-", "marker": "o"}
        if row["ours"]
        else {"color": next(peers), "ls": "--", "marker": "s"}
        for row in rows
    }


@styled
def evidence(result: dict[str, Any]) -> str:
    sets = result["sets"]
    figure, axes = subplots(1, len(sets), figsize=(4.0 * len(sets), 3.6), sharey=True)
    handles: dict[str, Any] = {}
    for axis, (set_name, content) in zip(axes, sets.items(), strict=True):
        budgets = sorted(content["budgets"], key=int)
        styles = _styles(content["budgets"][budgets[0]])
        for position, (method, style) in enumerate(styles.items()):
            rows = [next(r for r in content["budgets"][b] if r["method"] == method) for b in budgets]
            xs = [
                int(b) * 1.02 ** (position - len(styles) / 2) for b in budgets
            ]  # apart, so bars can be seen
            ys = [r["share"] for r in rows]
            bars = [[y - r["share_ci"][0] for y, r in zip(ys, rows, strict=True)]]
            bars.append([r["share_ci"][1] - y for y, r in zip(ys, rows, strict=True)])
            handle = axis.errorbar(xs, ys, yerr=bars, ms=4, lw=1.4, elinewidth=0.6, capsize=0, **style)
            handles.setdefault(result["methods"].get(method, method), handle)
        axis.set_xscale("log", base=2)
        axis.set_xticks([int(b) for b in budgets], budgets)
        axis.minorticks_off()
        axis.set(
            title=f"{set_name} ({content['questions']} questions)", xlabel="token budget", ylim=(0, 1.02)
        )
    axes[0].set_ylabel("share of key sentences kept")
    figure.legend(handles.values(), handles.keys(), loc="upper center", ncols=4, bbox_to_anchor=(0.5, -0.02))
    return svg(figure)


@styled
def speed(result: dict[str, Any]) -> str:
    rows = sorted(result["rows"], key=lambda r: r["s_per_mb"])
    figure, (left, right) = subplots(1, 2, figsize=(11, 3.4), width_ratios=[1.2, 1])
    colors = [OURS[0] if r["name"].startswith("ours") else PEERS[0] for r in rows]
    bars = left.barh([r["name"] for r in rows], [r["s_per_mb"] for r in rows], color=colors)
    left.bar_label(bars, [f"{r['s_per_mb']:.3f}" for r in rows], padding=3)
    left.set(xlabel="seconds per MB (all pages together)")
    left.margins(x=0.15)
    sizes = [page["mb"] * 1000 for page in result["pages"]]
    shown = [("htmlrag: clean + tree", PEERS[0], "s"), ("ours: clean + blocks", OURS[0], "o")]
    for name, color, marker in shown:
        if name in result["medians_s"]:
            seconds = [s * 1000 for s in result["medians_s"][name]]
            right.plot(sizes, seconds, marker, color=color, label=name, ms=5)
    right.set(xscale="log", yscale="log", xlabel="page, KB", ylabel="ms (median of rounds)")
    right.legend(frameon=False)
    figure.tight_layout()
    return svg(figure)


@styled
def nll(result: dict[str, Any]) -> str:
    sets = result["sets"]
    figure, axes = subplots(1, len(sets), figsize=(6.2 * len(sets), 3.4))
    for axis, (set_name, rows) in zip(axes, sets.items(), strict=True):
        rows = rows[::-1]
        names = [f"{r['context']} ({r['tokens']:.0f} tokens)" for r in rows]
        values = [r["nll"] for r in rows]
        bars = [[v - r["nll_ci"][0] for v, r in zip(values, rows, strict=True)]]
        bars.append([r["nll_ci"][1] - v for v, r in zip(values, rows, strict=True)])
        colors = [OURS[0] if r["context"].startswith("ours") else PEERS[0] for r in rows]
        axis.errorbar(values, range(len(rows)), xerr=bars, fmt="none", ecolor="#888", elinewidth=1)
        axis.scatter(values, range(len(rows)), c=colors, zorder=3)
        axis.set_yticks(range(len(rows)), names)
        axis.set(
            title=f"{set_name} ({rows[0]['n']} questions)", xlabel="nats per answer token, lower is better"
        )
    figure.tight_layout()
    return svg(figure)


@styled
def generative(result: dict[str, Any]) -> str:
    figure, axis = subplots(figsize=(6, 3.2))
    nodes = [c["branching_nodes"] for c in result["cases"]]
    axis.plot(nodes, result["reference_s"], "s", color=PEERS[0], label="naive reference")
    for color, (name, row) in zip(OURS * 3, result["scorers"].items(), strict=False):
        axis.plot(nodes, row["seconds"], "o", color=color, label=name)
    axis.set(xlabel="branching nodes of the trie", ylabel="seconds", yscale="log")
    axis.legend(frameon=False)
    return svg(figure)


@styled
def boilerplate(result: dict[str, Any]) -> str:
    rows = sorted(result["rows"], key=lambda r: r["f1"])
    figure, axis = subplots(figsize=(6.5, 0.5 * len(rows) + 1))
    values = [r["f1"] for r in rows]
    bars = [[v - r["f1_ci"][0] for v, r in zip(values, rows, strict=True)]]
    bars.append([r["f1_ci"][1] - v for v, r in zip(values, rows, strict=True)])
    colors = [OURS[0] if r["name"].startswith("ours") else PEERS[0] for r in rows]
    drawn = axis.barh([r["name"] for r in rows], values, xerr=bars, color=colors, ecolor="#555")
    axis.bar_label(drawn, [f"{v:.3f}" for v in values], label_type="center", color="white")
    axis.set(xlabel=f"mean token F1 ({rows[0]['n']} pages)", xlim=(0, 1))
    return svg(figure)


@styled
def scaling(result: dict[str, Any]) -> str:
    figure, axes = subplots(1, 2, figsize=(11.5, 4.0), sharey=True)
    palette = [*OURS[:3], *PEERS[:4]]
    for axis, field, title in zip(
        axes, ("blocks", "prune"), ("clean + blocks + token counting", "prune (htmlrag-bm25)"), strict=True
    ):
        for color, (name, row) in zip(palette, result["generators"].items(), strict=True):
            fitted = row[f"{field}_slope"]
            label = name if fitted is None else f"{name} (slope {fitted:.2f})"
            axis.plot(row["mb"], row[f"{field}_s"], "o-", color=color, ms=4, lw=1.2, label=label)
        first = next(iter(result["generators"].values()))
        xs = [min(first["mb"]), max(first["mb"])]
        start = first[f"{field}_s"][0]
        axis.plot(xs, [start, start * xs[1] / xs[0]], ":", color="#333", label="slope 1")
        axis.set(xscale="log", yscale="log", xlabel="page, MB", title=title)
        axis.legend(frameon=False, fontsize=8)
    axes[0].set_ylabel("seconds")
    figure.tight_layout()
    return svg(figure)


DRAW: dict[str, Callable[[dict[str, Any]], str]] = {
    "speed": speed,
    "evidence": evidence,
    "nll": nll,
    "generative": generative,
    "boilerplate": boilerplate,
    "scaling": scaling,
}
