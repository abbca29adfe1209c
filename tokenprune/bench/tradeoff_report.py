"""report.json and report.html of `tokenprune bench quality`: one file each, without outside parts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

from tokenprune.bench.folder import made
from tokenprune.bench.page import STYLE, plain, table
from tokenprune.bench.tradeoff import FULL, NEAR, Row, Tradeoff
from tokenprune.errors import ConfigError, MissingExtraError

_INTERVAL = "95 %"
HEAD = (
    "method @ budget",
    "tokens",
    "kept",
    "evidence",
    _INTERVAL,
    "NLL",
    _INTERVAL,
    "prune ms",
    "prefill s",
)
_FAR = 3  # times the tokens of all others
_TICKS = [digit * 10**power for power in range(1, 6) for digit in (1, 2, 5)]
_LEGEND = 5  # methods in a line of the legend
_TITLE = "What each method keeps"
# Columns of `HEAD` -> what they are; said only of those that the table has.
_READ = {
    "evidence": "Evidence: share of the passages that the answer needs which are left word for word (white "
    "space and case folded).",
    "NLL": "NLL: nats per token of the first gold answer after what is left; less is better.",
}
_NOTES = {
    "prune ms": "prune ms: median of the pruning alone, at the method's first budget.",
    "prefill s": "prefill s: predicted for the tokens kept.",
}


def cells(row: Row) -> tuple[str, ...]:
    """Return a row as texts under `HEAD`; what was not measured is empty."""
    return (
        row.label + (" *" if row.pareto else ""),
        f"{row.tokens:.0f}",
        f"{row.kept:.0%}",
        "" if row.evidence is None else f"{row.evidence:.3f}",
        _spread(row.evidence_interval),
        "" if row.nll is None else f"{row.nll:.3f}",
        _spread(row.nll_interval),
        "" if row.method == FULL else f"{row.seconds * 1e3:.1f}",
        "" if row.prefill_seconds is None else f"{row.prefill_seconds:.3g}",
    )


def _spread(pair: tuple[float, float] | None) -> str:
    return "" if pair is None else f"{pair[0]:.3f} to {pair[1]:.3f}"


def used_columns(rows: Sequence[Row]) -> list[int]:
    """Return the columns of `HEAD` that hold something."""
    found = [cells(row) for row in rows]
    return [n for n in range(len(HEAD)) if any(row[n] for row in found)]


def narrow_columns(rows: Sequence[Row], width: int) -> list[int]:
    """Return the columns for a terminal: `used_columns`, without intervals where these do not fit."""
    columns = used_columns(rows)
    table = [HEAD, *map(cells, rows)]
    needed = sum(max(len(row[n]) for row in table) + 1 for n in columns) - 1
    return columns if needed <= width else [n for n in columns if HEAD[n] != _INTERVAL]


def markdown(result: Tradeoff, names: Mapping[str, str] | None = None) -> str:
    """Return the rows as a Markdown table.

    Args:
        result: what was measured.
        names: of methods, where the table shall call them otherwise.
    """
    columns = used_columns(result.rows)
    lines = ["|" + "|".join(HEAD[n] for n in columns) + "|", "|---" + "|---:" * (len(columns) - 1) + "|"]
    for row in result.rows:
        shown = replace(row, method=(names or {}).get(row.method, row.method))
        lines.append("|" + "|".join(cells(shown)[n].replace("|", "\\|") for n in columns) + "|")
    return "\n".join(lines)


def write(result: Tradeoff, about: Mapping[str, Any], folder: Path) -> tuple[Path, Path]:
    """Write both reports.

    Args:
        result: what was measured.
        about: what the report says of itself (machine, date, command, workload, ...); goes into the JSON as
            it is.
        folder: made if it is not there.

    Returns:
        The paths of report.json and report.html.

    Raises:
        ConfigError: the folder cannot be written.
        MissingExtraError: matplotlib is not installed.
    """
    html = page(result, about)
    try:
        made(folder)
        text = json.dumps(plain({**about, **result.to_dict()}), indent=1)
        (folder / "report.json").write_text(text + "\n", encoding="utf-8")
        (folder / "report.html").write_text(html, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write the report to {folder}: {error.strerror}") from None
    return folder / "report.json", folder / "report.html"


def page(result: Tradeoff, about: Mapping[str, Any]) -> str:
    """Return the HTML report."""
    columns = used_columns(result.rows)
    heads = {HEAD[n] for n in columns}
    loss = "evidence" if "evidence" in heads else "likelihood of the answer"
    read = ["Every point is a method under a budget, the mean over the cases."]
    read += [text for head, text in _READ.items() if head in heads]
    if heads & set(_READ):
        read.append(f"The broken line joins the choices that nothing beats: fewer tokens would cost {loss}.")
    notes = ["* nothing beats it.", *(text for head, text in _NOTES.items() if head in heads)]
    rows = [[cells(row)[n] for n in columns] for row in result.rows]
    chosen = [row.label == result.recommended for row in result.rows]
    advice = (
        f"<p><b>Recommended: {escape(result.recommended)}.</b> {escape(result.rule)}</p>"
        if result.recommended
        else f"<p>{escape(result.rule)}</p>"
    )
    said, noted = escape(" ".join(read)), escape(" ".join(notes))
    meta = "<br>".join(f"{escape(str(k))}: {escape(str(v))}" for k, v in about.items() if str(v))
    return "".join(
        [
            f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{_TITLE}</title>',
            f'<style>{STYLE}</style><h1>{_TITLE}</h1><p class="meta">{meta}</p><p>{said}</p>',
            _plots(result.rows),
            advice,
            table([HEAD[n] for n in columns], rows, chosen),
            f'<p class="note">{noted}</p></html>\n',
        ]
    )


def _plots(rows: Sequence[Row]) -> str:
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingExtraError("tokenprune bench quality", "measure", error.name or "matplotlib") from error
    shown: list[tuple[str, str, tuple[float, float] | None]] = []
    if any(row.evidence is not None for row in rows):
        shown.append(("evidence", "share of evidence kept", (-0.02, 1.02)))
    if any(row.nll is not None for row in rows):
        shown.append(("nll", "nats per answer token, lower is better", None))
    if not shown:
        return '<p class="note">No evidence and no answers: no plot.</p>'
    from tokenprune.bench.figures import style

    with style():
        return _figure(rows, shown)


def _figure(rows: Sequence[Row], shown: Sequence[tuple[str, str, tuple[float, float] | None]]) -> str:
    from matplotlib.ticker import NullFormatter, StrMethodFormatter

    from tokenprune.bench.figures import OURS, PEERS, subplots, svg

    figure, axes = subplots(1, len(shown), figsize=(max(8.5, 6.4 * len(shown)), 4.6), squeeze=False)
    methods = list(dict.fromkeys(row.method for row in rows))
    colours = [c for pair in zip(OURS, PEERS, strict=False) for c in pair] + PEERS[len(OURS) :]
    looks = [(colour, marker) for marker in "osD^v" for colour in colours]
    most = max(row.tokens for row in rows)
    # The full context would press all others to the edge of a linear axis.
    others = [row.tokens for row in rows if row.method != FULL]
    far = bool(others) and min(others) > 0 and most > _FAR * max(others)
    for axis, (field, label, limits) in zip(axes[0], shown, strict=True):
        for (colour, marker), method in zip(looks, methods, strict=False):
            points = sorted(
                (row.tokens, getattr(row, field), getattr(row, f"{field}_interval"))
                for row in rows
                if row.method == method and getattr(row, field) is not None
            )
            if not points:
                continue
            xs, ys = [p[0] for p in points], [p[1] for p in points]
            # Too few cases for an interval: no bar.
            bars = [[y - p[2][0] if p[2] else 0.0 for y, p in zip(ys, points, strict=True)]]
            bars.append([p[2][1] - y if p[2] else 0.0 for y, p in zip(ys, points, strict=True)])
            style: dict[str, Any] = {"color": colour, "marker": "*" if method == FULL else marker}
            axis.errorbar(xs, ys, yerr=bars, ls="-", lw=0.9, ms=5, elinewidth=0.4, label=method, **style)
        front = sorted((r.tokens, getattr(r, field)) for r in rows if r.pareto)
        if field == shown[0][0] and front:
            axis.plot(
                *zip(*front, strict=True), ls="--", lw=2.2, color="#222", alpha=0.5, zorder=0, label="best"
            )
        axis.set(xlabel="tokens kept, mean" + (" (log)" if far else ""), ylabel=label)
        if far:
            axis.set_xscale("log")
            axis.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
            axis.xaxis.set_minor_formatter(NullFormatter())
            axis.set_xticks([t for t in _TICKS if min(r.tokens for r in rows) / 2 <= t <= 2 * most])
        if limits is not None:
            axis.set_ylim(*limits)
            full = next((getattr(r, field) for r in rows if r.method == FULL), None)
            if full is not None:
                axis.axhline(full - NEAR, ls=":", lw=0.8, color="#888")
    handles, labels = axes[0][0].get_legend_handles_labels()
    lines = -(-len(labels) // _LEGEND)
    figure.legend(handles, labels, frameon=False, fontsize=8, ncols=_LEGEND, loc="lower center")
    figure.tight_layout(rect=(0, 0.05 * lines + 0.01, 1, 1))
    return svg(figure)
