"""report.json and report.html: tables and figures in one file without outside parts."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from benchmarks.html import plots

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
STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:1180px;padding:0 1rem;color:#222}
h1{font-size:1.6rem}h2{margin-top:2.4rem;border-bottom:1px solid #ddd}h3{font-size:1rem;margin-bottom:.3rem}
table{border-collapse:collapse;font-size:13px;margin:.5rem 0 1rem}
th,td{padding:.2rem .6rem;text-align:right;border-bottom:1px solid #eee}
th:first-child,td:first-child{text-align:left}tr.ours td:first-child{color:#d1495b;font-weight:600}
svg{max-width:100%;height:auto}.meta,.note{color:#666;font-size:13px}
"""


def write(report: dict[str, Any], folder: Path) -> None:
    (folder / "report.json").write_text(json.dumps(_plain(report), indent=1) + "\n", encoding="utf-8")
    (folder / "report.html").write_text(page(report), encoding="utf-8")


def _plain(value: Any) -> Any:
    """JSON has no NaN: what could not be measured is null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


def page(report: dict[str, Any]) -> str:
    parts = [
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>HTML pruning compared</title>',
        f"<style>{STYLE}</style><h1>HTML pruning compared</h1>",
        f'<p class="meta">{escape(report["machine"])}<br>{escape(report["date"])}; code {report["code"]}; '
        f"<code>{escape(report['command'])}</code></p>",
    ]
    for name, title in TITLES.items():
        section = report["sections"].get(name)
        if section is None:
            continue
        parts.append(f'<h2 id="{name}">{title}</h2><p>{READ[name]}</p>')
        if "skipped" in section:
            parts.append(f'<p class="note">Skipped: {escape(section["skipped"])}</p>')
            continue
        parts += [plots.DRAW[name](section), *_TABLES[name](section)]
        parts.append(
            f'<p class="note">{escape(section["date"])}, code {section["code"]}, '
            f"{section['section_seconds']:.0f} s for this section.</p>"
        )
        parts += [f'<p class="note">{escape(n)}</p>' for n in section["notes"]]
    return "".join([*parts, "</html>\n"])


def table(head: Sequence[str], rows: Iterable[Sequence[str]], ours: Sequence[bool] = ()) -> str:
    body = []
    for i, row in enumerate(rows):
        mark = ' class="ours"' if i < len(ours) and ours[i] else ""
        body.append(f"<tr{mark}>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>")
    return f"<table><tr>{''.join(f'<th>{escape(h)}</th>' for h in head)}</tr>{''.join(body)}</table>"


def _range(pair: Sequence[float], signed: bool = False) -> str:
    form = "+.3f" if signed else ".3f"
    return f"{pair[0]:{form}} to {pair[1]:{form}}"


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
                    _range(r["share_ci"]),
                    f"{r['gain']:+.3f}" if "gain" in r else "best peer",
                    _range(r["gain_ci"], True) if "gain" in r else "",
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
        cells = [
            (
                r["context"],
                str(r["n"]),
                f"{r['tokens']:.0f}",
                f"{r['nll']:.3f}",
                _range(r["nll_ci"]),
                f"{r['difference']:+.3f}" if "difference" in r else "",
                _range(r["difference_ci"], True) if "difference" in r else "",
            )
            for r in rows
        ]
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
            _range(r["f1_ci"]),
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
