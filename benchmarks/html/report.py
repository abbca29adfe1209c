"""How the sections are shown in report.html."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

from benchmarks.common import report as common
from benchmarks.common.report import nll_cells, spread
from benchmarks.html import plots
from tokenprune.bench.page import table

TITLES = {
    "speed": "Speed of cleaning and the block tree",
    "evidence": "Evidence kept at a token budget",
    "nll": "Gold answer under a small model",
    "generative": "Generative step: block paths",
    "boilerplate": "Main text of a page",
    "scaling": "Time against page size",
}
READ = {
    "speed": "Same pages, same block size, runs in turns; seconds per MB from each page's median.",
    "evidence": "Tokens are SmolLM2's, counted on the output as emitted. Bars are bootstrap 95% intervals; "
    "gains are paired differences to the best published or plain method on the same questions.",
    "nll": "Mean negative log-likelihood per token of the gold answer (its first 100 tokens) "
    "after the context.",
    "generative": "The reference does one full forward per branching node of the path trie.",
    "boilerplate": "The gold text was made by Readability.js; readability-lxml has the same ancestor.",
    "scaling": "Slope of a line through the points in log-log scale: 1 is linear time.",
}


def write(report: dict[str, Any], folder: Path) -> None:
    shown = {n: common.Shown(TITLES[n], READ[n], plots.DRAW[n], _TABLES[n]) for n in TITLES}
    common.write(report, folder, "HTML pruning compared", shown)


def _speed(section: dict[str, Any]) -> list[str]:
    parts = []
    if "ratio_total" in section:
        met = "met" if section["ratio_total"] >= section["target_ratio"] else "missed"
        parts.append(
            f"<p>htmlrag clean + tree takes <b>{section['ratio_total']:.1f} times</b> as long as ours over "
            f"all pages (by page: median {section['ratio_median_page']:.1f}, {section['ratio_min']:.1f} to "
            f"{section['ratio_max']:.1f}); target {section['target_ratio']:g} times: {met}.</p>"
        )
    rows = section["rows"]
    cells = [
        (r["name"], f"{r['s_per_mb']:.3f}", f"{r['median_page_s_per_mb']:.3f}", str(r["failed_pages"]))
        for r in rows
    ]
    return [
        *parts,
        table(
            ("what", "s/MB, all pages", "s/MB, median page", "pages failed"),
            cells,
            [r["name"].startswith("ours") for r in rows],
        ),
    ]


def _evidence(section: dict[str, Any]) -> list[str]:
    parts = []
    labels = section["methods"]
    for set_name, content in section["sets"].items():
        for budget, rows in content["budgets"].items():
            cells = [
                (
                    labels.get(r["method"], r["method"]),
                    str(r["n"]),
                    f"{r['share']:.3f}",
                    spread(r["share_ci"]),
                    f"{r['gain']:+.3f}" if "gain" in r else "best peer",
                    spread(r["gain_ci"], True) if "gain" in r else "",
                    f"{r['rows']:.3f}" if "rows" in r else "",
                    f"{r['budget_use']:.2f}",
                    f"{r['over_budget']:.2f}",
                    str(r["errors"]),
                )
                for r in rows
            ]
            head = ("method", "n", "share kept", "95%", "gain on best peer", "95%", "a gold row whole")
            parts.append(f"<h3>{escape(set_name)}, {budget} tokens</h3>")
            parts.append(table((*head, "budget used", "over", "errors"), cells, [r["ours"] for r in rows]))
    timed = section.get("seconds") or {}
    if timed:
        cells = [
            (labels.get(n, n), f"{r['median']:.3f}", f"{r['mean']:.3f}", f"{r['max']:.3f}", str(r["pages"]))
            for n, r in timed.items()
        ]
        parts.append("<h3>Seconds per page, cold, at 1024 tokens</h3>")
        parts.append(table(("method", "median", "mean", "max", "pages"), cells))
    return parts


def _nll(section: dict[str, Any]) -> list[str]:
    parts = []
    for set_name, rows in section["sets"].items():
        cells = [nll_cells(r) for r in rows]
        parts.append(f"<h3>{escape(set_name)}, budget {section['budget']} tokens</h3>")
        head = ("context", "n", "tokens", "NLL", "95%", "against BM25 chunks", "95%")
        parts.append(table(head, cells, [r["context"].startswith("ours") for r in rows]))
    return parts


def _generative(section: dict[str, Any]) -> list[str]:
    cells = [
        (str(c["prompt_tokens"]), str(c["leaves"]), str(c["branching_nodes"]), f"{s:.2f}")
        for c, s in zip(section["cases"], section["reference_s"], strict=True)
    ]
    parts = [table(("prompt tokens", "leaves", "branching nodes", "reference, s"), cells)]
    if section["scorers"]:
        cells = [
            (n, f"{r['max_difference']:.2e}", f"{r['median_speedup']:.1f}")
            for n, r in section["scorers"].items()
        ]
        head = ("scorer", "largest difference of a log probability", "times faster, median")
        parts.append(table(head, cells))
    return parts


def _boilerplate(section: dict[str, Any]) -> list[str]:
    rows = section["rows"]
    cells = [
        (
            r["name"],
            str(r["n"]),
            f"{r['f1']:.3f}",
            spread(r["f1_ci"]),
            f"{r['f1_median']:.3f}",
            f"{r['seconds']:.3f}",
            str(r["errors"]),
        )
        for r in rows
    ]
    head = ("method", "pages", "mean F1", "95%", "median F1", "s per page", "errors")
    return [table(head, cells, [r["name"].startswith("ours") for r in rows])]


def _scaling(section: dict[str, Any]) -> list[str]:
    cells = []
    for name, row in section["generators"].items():
        fitted = [row["blocks_slope"], row["prune_slope"]]
        cells.append(
            (
                name,
                ", ".join(f"{mb:g}" for mb in row["mb"]),
                ", ".join(f"{s:.2f}" for s in row["blocks_s"]),
                *("" if f is None else f"{f:.2f}" for f in fitted),
                f"{row['blocks_s'][-1] / row['mb'][-1]:.2f}",
            )
        )
    head = ("generator", "MB", "clean + blocks, s", "slope", "slope of prune", "s/MB at the largest")
    return [table(head, cells)]


_TABLES = {
    "speed": _speed,
    "evidence": _evidence,
    "nll": _nll,
    "generative": _generative,
    "boilerplate": _boilerplate,
    "scaling": _scaling,
}
