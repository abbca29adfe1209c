"""The figures of the report of ``tokenprune bench ttft``, as SVG."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tokenprune.bench.breakdown import PARTS
from tokenprune.bench.decisions import PRUNED
from tokenprune.bench.figures import OURS, PEERS, styled, subplots, svg
from tokenprune.bench.rows import Row, pairs_of

_COLOURS = {"direct": PEERS[0], "pruned": OURS[0]}
_NAMES = {"direct": "direct", "pruned": "through the proxy"}


@styled
def ttft_by_length(report: Mapping[str, Any], rows: list[Row]) -> str | None:
    """TTFT against the length of the unpruned prompt, both routes, with fits and break-even."""
    pairs = [p for p in pairs_of(rows) if p.direct.tokens_in]
    if not pairs:
        return None
    tokens = np.array([p.direct.tokens_in for p in pairs], dtype=float)
    figure, axes = subplots(figsize=(8.5, 4.4))
    skipped = np.array([p.pruned.decision not in (PRUNED, None) for p in pairs])
    shown: tuple[tuple[str, Any, dict[str, Any], str], ...] = (
        ("direct", np.ones_like(skipped), {}, _NAMES["direct"]),
        ("pruned", ~skipped, {}, _NAMES["pruned"]),
        ("pruned", skipped, {"mfc": "none"}, f"{_NAMES['pruned']}, not pruned"),
    )
    for side, mask, hollow, label in shown:
        times = np.array([getattr(p, side).ttft_ms for p in pairs])
        style = {"ms": 3.5, "alpha": 0.6, "color": _COLOURS[side], "label": label, **hollow}
        if mask.any():
            axes.plot(tokens[mask], times[mask], "o", **style)
    found = report["break_even"]
    for side in ("direct", "pruned"):
        if side in found:
            # Where nothing was pruned, the fit says nothing.
            low, high = found["measured"] if side == "pruned" else (tokens.min(), tokens.max())
            grid = np.linspace(low, high, 200)
            a, b, c = found[side]["coefficients"]
            axes.plot(grid, a + b * grid + c * grid**2, "-", lw=1.3, color=_COLOURS[side])
    if found["status"] == "measured":
        axes.axvline(found["tokens"], color="#666", lw=1, ls=":")
        axes.annotate(
            f"break-even: {found['tokens']:.0f} tokens", (found["tokens"], 1), ha="left", va="top",
            xycoords=("data", "axes fraction"), xytext=(4, -2), textcoords="offset points", color="#444",
        )  # fmt: skip
    axes.set(xlabel="tokens of the prompt without pruning", ylabel="time to first token, ms", ylim=(0, None))
    axes.legend(frameon=False)
    return svg(figure)


@styled
def ttft_distribution(_: Mapping[str, Any], rows: list[Row]) -> str | None:
    """Cumulative distribution of TTFT, of the complete pairs."""
    pairs = pairs_of(rows)
    if not pairs:
        return None
    figure, axes = subplots(figsize=(8.5, 3.4))
    share = np.arange(1, len(pairs) + 1) / len(pairs)
    for side in ("direct", "pruned"):
        times = np.sort([getattr(p, side).ttft_ms for p in pairs])
        axes.step(times, share, where="post", color=_COLOURS[side], label=_NAMES[side])
    axes.set(xlabel="time to first token, ms", ylabel="share of the requests", ylim=(0, 1.02), xlim=(0, None))
    axes.legend(frameon=False, loc="lower right")
    return svg(figure)


@styled
def where_time_goes(_: Mapping[str, Any], rows: list[Row]) -> str | None:
    """Mean time of a request in parts, as far as the headers tell them apart."""
    pairs = pairs_of(rows)
    if not pairs:
        return None
    figure, axes = subplots(figsize=(8.5, 1.9))
    parts = (
        ("pruning (x-tokenprune-ms)", OURS[1], lambda r: r.prune_ms or 0.0),
        ("rest of the way to the first token", PEERS[1], lambda r: r.ttft_ms - (r.prune_ms or 0.0)),
        ("further tokens", PEERS[3], lambda r: r.e2el_ms - r.ttft_ms),
    )
    left = np.zeros(2)
    for label, colour, value in parts:
        widths = [_mean([getattr(p, side) for p in pairs], value) for side in ("pruned", "direct")]
        axes.barh(
            [_NAMES["pruned"], _NAMES["direct"]], widths, left=left, color=colour, label=label, height=0.6
        )
        left += widths
    axes.set(xlabel="mean time of a request, ms")
    axes.legend(frameon=False, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.32))
    return svg(figure)


_PART_COLOURS = {
    "parse": PEERS[3], "count": PEERS[5], "segment": OURS[1], "score": OURS[0], "select": OURS[2],
    "render": OURS[3], "proxy": PEERS[1], "upstream": PEERS[0],
}  # fmt: skip


@styled
def parts_of_a_request(report: Mapping[str, Any], _: list[Row]) -> str | None:
    """The parts of a median request as one bar, and what is not the model server's as another."""
    found = report["breakdown"]
    if found is None:
        return None
    figure, axes = subplots(2, 1, figsize=(8.5, 3.0))
    own = [name for name in PARTS if name != "upstream"]
    for axis, names, title in (
        (axes[0], list(PARTS), "until the first token"),
        (axes[1], own, "of it proxy and pruning"),
    ):
        left = 0.0
        for name in names:
            width = found["shown"][name]
            axis.barh([title], [width], left=left, color=_PART_COLOURS[name], label=name, height=0.6)
            if width > 0.05 * sum(found["shown"][n] for n in names):
                axis.text(
                    left + width / 2, 0, f"{width:.1f}", ha="center", va="center", color="white", fontsize=8
                )
            left += width
        axis.set(xlim=(0, left * 1.01 or 1), xlabel="ms")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, ncols=len(labels), loc="lower center", fontsize=8)
    figure.tight_layout(rect=(0, 0.07, 1, 1))
    return svg(figure)


def _mean(rows: list[Row], value: Callable[[Any], float]) -> float:
    return float(np.mean([value(row) for row in rows]))


@styled
def tokens_kept(report: Mapping[str, Any], rows: list[Row]) -> str | None:
    """Tokens that reached the model against those of the unpruned prompt."""
    pairs = [p for p in pairs_of(rows) if p.direct.tokens_in and p.pruned.tokens_in]
    if not pairs:
        return None
    before, after = (
        np.array([getattr(p, s).tokens_in for p in pairs], dtype=float) for s in ("direct", "pruned")
    )
    pruned = np.array([p.pruned.decision in (PRUNED, None) for p in pairs])
    figure, axes = subplots(figsize=(8.5, 3.8))
    axes.plot([0, before.max()], [0, before.max()], color="#999", lw=1, ls=":", label="nothing pruned")
    for mask, label, colour in ((pruned, "pruned", OURS[0]), (~pruned, "skipped or failed", PEERS[2])):
        if mask.any():
            axes.plot(before[mask], after[mask], "o", ms=3.5, alpha=0.6, color=colour, label=label)
    axes.set(
        xlabel="tokens of the prompt without pruning", ylabel="tokens that reached the model", ylim=(0, None)
    )
    axes.legend(frameon=False)
    return svg(figure)


@styled
def quality_by_tokens(report: Mapping[str, Any], _: list[Row]) -> str | None:
    """Quality of the answers against the share of the tokens that reached the model."""
    direct, pruned = report["quality"]["direct"], report["quality"]["pruned"]
    kept = report["tokens_kept"]
    shown = [
        (key, label)
        for key, label in (
            ("f1", "token F1"),
            ("contains_answer", "answer in the text"),
            ("evidence_recall", "recall of evidence"),
        )
        if direct[key] is not None and pruned[key] is not None
    ]
    if kept is None or not shown:
        return None
    figure, axes = subplots(figsize=(8.5, 3.4))
    for (key, label), colour in zip(shown, (OURS[0], OURS[1], PEERS[1]), strict=False):
        axes.plot([kept, 1], [pruned[key], direct[key]], "o-", color=colour, label=label, lw=1.2)
    axes.set(
        xlabel="share of the tokens that reached the model (1: direct)",
        ylabel="mean",
        ylim=(0, 1.05),
        xlim=(0, 1.05),
    )
    axes.legend(frameon=False)
    return svg(figure)
