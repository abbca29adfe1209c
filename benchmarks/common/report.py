"""report.json and report.html: tables and figures in one file without outside parts."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from tokenprune.bench.page import STYLE, plain


@dataclass(frozen=True)
class Shown:
    """How a section is shown: a title, how to read it, its figure as SVG, its tables as HTML."""

    title: str
    read: str
    draw: Callable[[dict[str, Any]], str]
    tables: Callable[[dict[str, Any]], list[str]]


def write(report: dict[str, Any], folder: Path, title: str, shown: Mapping[str, Shown]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(json.dumps(plain(report), indent=1) + "\n", encoding="utf-8")
    (folder / "report.html").write_text(page(report, title, shown), encoding="utf-8")


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
