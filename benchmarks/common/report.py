"""report.json and report.html: tables and figures in one file without outside parts."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:1180px;padding:0 1rem;color:#222}
h1{font-size:1.6rem}h2{margin-top:2.4rem;border-bottom:1px solid #ddd}h3{font-size:1rem;margin-bottom:.3rem}
table{border-collapse:collapse;font-size:13px;margin:.5rem 0 1rem}
th,td{padding:.2rem .6rem;text-align:right;border-bottom:1px solid #eee}
th:first-child,td:first-child{text-align:left}tr.ours td:first-child{color:#d1495b;font-weight:600}
svg{max-width:100%;height:auto}.meta,.note{color:#666;font-size:13px}
"""


@dataclass(frozen=True)
class Shown:
    """How a section is shown: a title, how to read it, its figure as SVG, its tables as HTML."""

    title: str
    read: str
    draw: Callable[[dict[str, Any]], str]
    tables: Callable[[dict[str, Any]], list[str]]


def write(report: dict[str, Any], folder: Path, title: str, shown: Mapping[str, Shown]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(json.dumps(_plain(report), indent=1) + "\n", encoding="utf-8")
    (folder / "report.html").write_text(page(report, title, shown), encoding="utf-8")


def _plain(value: Any) -> Any:
    """JSON has no NaN: what could not be measured is null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


def page(report: dict[str, Any], title: str, shown: Mapping[str, Shown]) -> str:
    parts = [
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>',
        f"<style>{STYLE}</style><h1>{escape(title)}</h1>",
        f'<p class="meta">{escape(report["machine"])}<br>{escape(report["date"])}; code {report["code"]}; '
        f"<code>{escape(report['command'])}</code></p>",
    ]
    for name, how in shown.items():
        section = report["sections"].get(name)
        if section is None:
            continue
        parts.append(f'<h2 id="{name}">{how.title}</h2><p>{how.read}</p>')
        if "skipped" in section:
            parts.append(f'<p class="note">Skipped: {escape(section["skipped"])}</p>')
            continue
        parts += [how.draw(section), *how.tables(section)]
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


def spread(pair: Sequence[float], signed: bool = False) -> str:
    """An interval as text."""
    form = "+.3f" if signed else ".3f"
    return f"{pair[0]:{form}} to {pair[1]:{form}}"


def nll_cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Context, n, tokens, NLL and its interval, the difference from the reference and its interval."""
    return (
        row["context"],
        str(row["n"]),
        f"{row['tokens']:.0f}",
        f"{row['nll']:.3f}",
        spread(row["nll_ci"]),
        f"{row['difference']:+.3f}" if "difference" in row else "",
        spread(row["difference_ci"], True) if "difference" in row else "",
    )
