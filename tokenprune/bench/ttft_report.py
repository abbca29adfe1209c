"""report.json, report.html and the terminal table of ``tokenprune bench ttft``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenprune.bench import plots, words
from tokenprune.bench.page import STYLE, plain, table
from tokenprune.bench.rows import Row

if TYPE_CHECKING:
    from rich.console import Console

TITLE = "Time to first token, before and after pruning"
_MEANT = " (TTFT of both routes, and pruning, in ms)"
# title, how to read it, function of `tokenprune.bench.plots`
_FIGURES = (
    (
        "Time to first token by prompt length",
        "Each point is a request; both stand at the length of the unpruned prompt. Lines: least-squares fits "
        "of a + b n + c n². Where they cross, pruning begins to pay.",
        "ttft_by_length",
    ),
    ("Distribution", "Share of the requests whose first token has come by then.", "ttft_distribution"),
    (
        "Where the time of a request goes",
        "Means. The proxy says how long it read, decided and pruned; the rest until the first token is its "
        "way through the proxy and the prefill of what is left.",
        "where_time_goes",
    ),
    (
        "One request in parts",
        "The pruned request whose time to first token is the median one. The steps of pruning as the proxy "
        "times them; upstream from handing the request on to the first token; proxy: the rest.",
        "parts_of_a_request",
    ),
    ("Tokens kept", "Both counted by the server (usage.prompt_tokens).", "tokens_kept"),
    (
        "Quality against tokens kept",
        "Means over all answers: at 1 the direct route, left of it the pruned one.",
        "quality_by_tokens",
    ),
)


def write_json(report: Mapping[str, Any], folder: Path) -> Path:
    """Write report.json; what could not be measured is null."""
    path = folder / "report.json"
    path.write_text(json.dumps(plain(dict(report)), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return path


def write_html(report: Mapping[str, Any], rows: list[Row], folder: Path) -> Path:
    """Write report.html: one file without outside parts."""
    path = folder / "report.html"
    path.write_text(_page(report, rows), encoding="utf-8")
    return path


def _page(report: Mapping[str, Any], rows: list[Row]) -> str:
    settings = report["settings"]
    first, *rest = words.findings(report)
    parts = [
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{TITLE}</title>',
        f"<style>{STYLE}</style><h1>{TITLE}</h1><p><strong>{escape(first)}</strong></p>",
        _list(rest),
        f'<p class="meta">{escape(report["machine"])}<br>{escape(report["date"])}; '
        f"{escape(_what(report))}<br><code>{escape(report['command'])}</code></p>",
    ]
    if warned := words.warnings(report):
        parts.append(f"<h2>Before you believe it</h2>{_list(warned)}")
    parts += ["<h2>Figures</h2>", table(words.HEAD, words.figure_rows(report))]
    if quality := words.quality_rows(report):
        parts += ["<h2>Answers</h2>", table(("", "direct", "pruned", ""), quality)]
    for title, read, name in _FIGURES:
        drawn = getattr(plots, name)(report, rows)
        if drawn is not None:
            parts.append(f"<h2>{title}</h2><p>{read}</p>{drawn}")
            if name == "ttft_by_length":
                parts.append(table(words.SLICE_HEAD, words.slice_rows(report["by_length"])))
            if name == "parts_of_a_request":
                parts.append(table(words.PART_HEAD, words.part_rows(report)))
    for title, key in (("By round", "by_round"), ("By position in the group", "by_position")):
        if len(report[key]) > 1:
            parts += [f"<h2>{title}</h2>", table(words.SLICE_HEAD, words.slice_rows(report[key]))]
    parts += [
        "<h2>Beside what others publish</h2><p>Figures of the sources, none measured here; at which "
        "prompt lengths is not known, so that ours stand with the shortest and longest of this run.</p>",
        table(words.PUBLISHED_HEAD, words.published_rows(report), prose=True),
    ]
    parts.append(f'<p class="note">How it was measured: {escape(_how(settings))}</p></html>\n')
    return "".join(parts)


def _list(lines: list[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"


def _what(report: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    return f"model {report['settings']['model']}, workload {report['settings']['workload']}; {versions}"


def _how(settings: Mapping[str, Any]) -> str:
    if settings["rate"] is not None:
        load = f"open loop, Poisson arrivals at {settings['rate']:g} requests/s, one route at a time by turns"
    elif settings["concurrency"] > 1:
        load = f"closed loop, {settings['concurrency']} requests in flight, one route at a time by turns"
    else:
        load = "one request at a time, each case over both routes in turn, the first route alternating"
    cache = {
        "cold": "every prompt begins with its own number, so that the prefix cache holds nothing of it",
        "warm": "all prompts of a route in a round begin with the same number: a request finds in the prefix "
        "cache what its own route sent before it in this round",
    }[settings["cache"]]
    return (
        f"{load}; {settings['rounds']} round(s); {cache}. TTFT runs from sending the request to the first "
        "token; TPOT, ITL and E2EL as in vLLM's benchmark client. Intervals: bootstrap over cases."
    )


def show(report: Mapping[str, Any], console: Console) -> None:
    """Print findings, warnings and tables."""
    from rich.table import Table
    from rich.text import Text

    def put(title: str, head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
        made = Table(title=title, title_justify="left", box=None, pad_edge=False)
        used = [i for i in range(len(head)) if i == 0 or any(row[i] for row in rows)]
        for i in used:
            made.add_column(head[i], justify="left" if i == 0 else "right")
        for row in rows:
            made.add_row(*(Text(row[i]) for i in used))
        console.print(made)
        console.print()

    if report["no_verdict"] is not None:
        console.print(Text(report["no_verdict"], style="bold red"))
        console.print()
    put("Figures", words.HEAD, words.figure_rows(report))
    if quality := words.quality_rows(report):
        put("Answers", ("", "direct", "pruned", ""), quality)
    if len(report["by_length"]) > 1:
        put(
            f"By prompt length{_MEANT}",
            ("tokens", *words.NARROW_HEAD[1:]),
            words.narrow_rows(report["by_length"]),
        )
    if in_parts := words.part_rows(report):
        put("One request in parts", words.PART_HEAD, in_parts)
    if report["by_position"]:
        put(f"By position in the group{_MEANT}", words.NARROW_HEAD, words.narrow_rows(report["by_position"]))
    for line in words.findings(report)[report["no_verdict"] is not None :]:
        console.print(Text(line))
    for line in words.warnings(report):
        console.print(Text(f"note: {line}", style="yellow"))
