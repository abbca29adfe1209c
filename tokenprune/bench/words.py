"""What the report says in words, and the table of the figures: the same in the terminal and in HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tokenprune.bench.breakdown import PARTS
from tokenprune.bench.statistics import ENOUGH, TAIL

Report = Mapping[str, Any]

_ERRORS = 10  # kinds of errors that are shown

HEAD = ("", "direct", "pruned", "direct / pruned")
# label, key of the side's figures, format
_FIGURES = (
    ("TTFT median, ms", "median_ttft_ms", ".1f"),
    ("TTFT mean, ms", "mean_ttft_ms", ".1f"),
    ("TTFT p90, ms", "p90_ttft_ms", ".1f"),
    ("TTFT p99, ms", "p99_ttft_ms", ".1f"),
    ("proxy's own work, median, ms", "median_prune_ms", ".1f"),
    ("proxy's own work, p99, ms", "p99_prune_ms", ".1f"),
    ("E2EL median, ms", "median_e2el_ms", ".1f"),
    ("E2EL p99, ms", "p99_e2el_ms", ".1f"),
    ("TPOT median, ms", "median_tpot_ms", ".2f"),
    ("ITL median, ms", "median_itl_ms", ".2f"),
    ("ITL p99, ms", "p99_itl_ms", ".2f"),
    ("tokens in, median", "median_input_tokens", ".0f"),
    ("tokens in, sum", "total_input_tokens", ".0f"),
    ("tokens out, median", "median_output_tokens", ".0f"),
    ("tokens in the prefix cache, sum", "total_cached_tokens", ".0f"),
    ("requests/s", "request_throughput", ".3f"),
    ("good requests/s", "request_goodput", ".3f"),
    ("tokens out/s", "output_throughput", ".1f"),
    ("measured", "completed", "d"),
    ("failed", "failed", "d"),
)
_QUALITY = (
    ("exact match", "em", "answers"),
    ("token F1", "f1", "answers"),
    ("answer in the text", "contains_answer", "answers"),
    ("recall of evidence", "evidence_recall", "evidence_recall_n"),
    ("NLL of the gold answer, nats/token", "nll", "nll_n"),
)
SLICE_HEAD = (
    "",
    "pairs",
    "pruned",
    "tokens kept",
    "direct TTFT, ms",
    "pruned TTFT, ms",
    "prune, ms",
    "ratio",
    "95%",
    "evidence",
)


PUBLISHED_HEAD = ("published", "figure", "of what", "setting", "here", "what is comparable")


def published_rows(report: Report) -> list[tuple[str, ...]]:
    """Return the figures of the field beside ours."""
    return [
        (
            f"{one['work']} ({_source(one)})",
            one["figure"],
            one["what"],
            one["setting"],
            one["ours"] or "not in this run",
            one["comparable"],
        )
        for one in report["published"]
    ]


def _source(one: Mapping[str, Any]) -> str:
    year = "" if one["year"] is None else f", {one['year']}"
    return f"{one['source']}{year}{', second-hand' if one['second_hand'] else ''}"


def figure_rows(report: Report) -> list[tuple[str, str, str, str]]:
    """Return the figures of both routes as texts; what nobody knows is left out, a p99 of few is a dash."""
    direct, pruned = report["direct"], report["pruned"]
    rows = []
    for label, key, form in _FIGURES:
        a, b = direct[key], pruned[key]
        if a is None and b is None:
            continue
        ratio = f"{a / b:.2f}" if a and b and key not in ("completed", "failed") else ""
        if key.startswith("p99") and min(direct["completed"], pruned["completed"]) < TAIL:
            rows.append((label, "-", "-", ""))
        else:
            rows.append((label, _text(a, form), _text(b, form), ratio))
    return rows


def quality_rows(report: Report) -> list[tuple[str, str, str, str]]:
    """Return the quality of the answers of both routes; what is not known is left out."""
    direct, pruned = report["quality"]["direct"], report["quality"]["pruned"]
    rows = []
    for label, key, number in _QUALITY:
        a, b = direct[key], pruned[key]
        if a is None and b is None:
            continue
        counted = f"n = {direct[number]}" + (
            "" if direct[number] == pruned[number] else f" and {pruned[number]}"
        )
        rows.append((label, _text(a, ".3f"), _text(b, ".3f"), counted))
    return rows


class _Slice(NamedTuple):
    """The figures of a part of the pairs as texts; ``bounds`` of its ratio, None for too few pairs."""

    pairs: str
    pruned: str
    kept: str
    direct: str
    proxy: str
    prune: str
    ratio: str
    bounds: tuple[str, str] | None
    recall: str

    @classmethod
    def of(cls, part: Mapping[str, Any]) -> _Slice:
        """Write them out."""
        interval = part["ttft_ratio_ci"]
        return cls(
            str(part["pairs"]),
            str(part["pruned"]),
            _text(part["tokens_kept"], ".0%"),
            _text(part["direct_ttft_ms"], ".1f"),
            _text(part["pruned_ttft_ms"], ".1f"),
            _text(part["prune_ms"], ".1f"),
            _text(part["ttft_ratio"], ".2f"),
            None if interval is None else (_text(interval[0], ".2f"), _text(interval[1], ".2f")),
            _text(part["evidence_recall"], ".0%"),
        )


def slice_rows(slices: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Return the rows of a table by length, round or position."""
    rows: list[tuple[str, ...]] = []
    for part in slices:
        name = part["name"] if "name" in part else f"about {part['tokens']:.0f} tokens"
        *figures, bounds, recall = _Slice.of(part)
        rows.append((name, *figures, "-" if bounds is None else " to ".join(bounds), recall))
    return rows


# The same in 80 columns: both routes' TTFT and the pruning in ms; how many of the pairs were pruned.
NARROW_HEAD = ("", "pruned", "kept", "direct", "proxy", "prune", "ratio (95%)", "recall")


def narrow_rows(slices: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Return `slice_rows` for a terminal, under `NARROW_HEAD`."""
    rows: list[tuple[str, ...]] = []
    for part in slices:
        name = part["name"] if "name" in part else f"{part['tokens']:.0f}"
        one = _Slice.of(part)
        ratio = one.ratio if one.bounds is None else f"{one.ratio} ({'-'.join(one.bounds)})"
        pruned = f"{one.pruned}/{one.pairs}"
        rows.append((name, pruned, one.kept, one.direct, one.proxy, one.prune, ratio, one.recall))
    return rows


PART_HEAD = ("part", "shown, ms", "median, ms", "p90, ms")


def part_rows(report: Report) -> list[tuple[str, ...]]:
    """Return the parts of a request; none where they are not known."""
    found = report["breakdown"]
    if found is None:
        return []
    names = dict(PARTS)
    if not found["upstream_known"]:
        del names["proxy"]
        names["upstream"] = "proxy and upstream"
    return [
        (label, *(_text(found[column][name], ".2f") for column in ("shown", "median", "p90")))
        for name, label in names.items()
    ]


def _text(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def verdict(report: Report) -> str:
    """Return one sentence: does the first token come sooner? Or why this run cannot tell."""
    if report["no_verdict"] is not None:
        return str(report["no_verdict"])
    ratio, ci = report["ttft_ratio"], report["ttft_ratio_ci"]
    if ratio is None:
        return "Nothing can be compared: no case was measured on both routes."
    medians = f"medians over {report['pairs']} pairs of {report['cases']} cases"
    if ci is None:
        said = f"The median TTFT is {_times(ratio)} with pruning"
        return f"{said} ({medians}); fewer than {ENOUGH} cases do not say how sure that is."
    # In the direction of the sentence.
    low, high = ci if ratio >= 1 else (1 / ci[1], 1 / ci[0])
    sure = f"95% interval of the factor: {low:.2f} to {high:.2f}"
    by_ratio, by_pairs = _alone(report)
    if by_ratio is not None and by_ratio == by_pairs:
        return f"Pruning is {by_ratio}: TTFT is {_times(ratio)} with pruning ({sure}; {medians})."
    why = "perhaps by chance" if by_ratio is None else "which the paired differences do not bear out"
    return f"No difference can be told: TTFT is {_times(ratio)} with pruning, {why} ({sure}; {medians})."


def _alone(report: Report) -> tuple[str | None, str | None]:
    """What the ratio of the medians and the paired difference would each say; None: it may be chance.

    Where the lengths of the prompts differ much the two can disagree, so that a verdict takes both.
    """
    ratio, difference = report["ttft_ratio_ci"], report["ttft_difference_ms_ci"]
    by_ratio = "FASTER" if ratio[0] > 1 else "SLOWER" if ratio[1] < 1 else None
    by_pairs = "FASTER" if difference[1] < 0 else "SLOWER" if difference[0] > 0 else None
    return by_ratio, by_pairs


def _disagreement(report: Report) -> str:
    """What to add to the paired difference where it and the ratio do not lead to one verdict."""
    if report["ttft_ratio_ci"] is None:
        return ""
    by_ratio, by_pairs = _alone(report)
    if by_ratio == by_pairs:
        return ""
    pairs, ratio = ("no difference" if alone is None else alone.lower() for alone in (by_pairs, by_ratio))
    return (
        f"; this alone would say: {pairs}. The ratio of the medians alone would say: {ratio}. "
        "A verdict takes that both say the same; more cases may bring it"
    )


def _times(ratio: float) -> str:
    return f"{ratio:.2f} times shorter" if ratio >= 1 else f"{1 / ratio:.2f} times longer"


def findings(report: Report) -> list[str]:
    """Return what the figures say, one sentence each, the verdict first."""
    said = [verdict(report)]
    if report["no_verdict"] is not None:
        return said + _decided(report)
    if report["ttft_difference_ms"] is not None:
        said.append(
            f"Paired difference of TTFT, pruned minus direct: {_between(report, 'ttft_difference_ms')}"
            f"{_disagreement(report)}."
        )
        said.append(
            f"Paired difference of E2EL, pruned minus direct: {_between(report, 'e2el_difference_ms')}."
        )
    if report["tokens_kept"] is not None:
        said.append(f"Of the prompt's tokens, {report['tokens_kept']:.0%} reached the model (median).")
    said.append(f"Break-even: {report['break_even']['text']}.")
    if report["efficiency"] is not None:
        said.append(
            f"Efficiency: {report['efficiency']:.0%} of the speed-up that pruning in no time would give."
        )
    said += _decided(report)
    if report["rescued"]:
        said.append(f"{report['rescued']} prompts were too long for the model, and fitted after pruning.")
    return said


def _between(report: Report, key: str) -> str:
    value, ci = report[key], report[f"{key}_ci"]
    return f"{value:+.1f} ms" + ("" if ci is None else " (95%: {:+.1f} to {:+.1f})".format(*ci))


def _decided(report: Report) -> list[str]:
    decisions, regret = report["decisions"], report["regret"]
    if not decisions:
        return []
    said = ["Decisions of the proxy: " + ", ".join(f"{n} {d}" for d, n in decisions.items()) + "."]
    if regret is None:
        return said
    if report["no_verdict"] is not None:
        # What is said of pruned requests, or of a saving, would be a verdict.
        if regret["pruned"]:
            return said
        added = f"{regret['overhead_skipped_ms']:+.1f} ms"
        return [f"The way over the proxy made the first token come {added} later (median)."]
    if regret["pruned"]:
        said.append(
            f"Of {regret['pruned']} pruned requests {regret['pruned_slower']} were slower than unpruned "
            f"(regret {regret['regret_pruned_ms']:.1f} ms on average)."
        )
    always = regret["against_always_ms"]
    if regret["skipped"]:
        unknown = "; what pruning would have given there, --always would have shown" if always is None else ""
        said.append(
            f"{regret['skipped']} requests were not pruned and took {regret['overhead_skipped_ms']:+.1f} ms "
            f"against direct (median){unknown}."
        )
    said.append(f"Against never pruning: {regret['against_never_ms']:+.1f} ms a request on average.")
    if always is not None and regret["skipped"]:
        said.append(
            f"Against always pruning: {always:+.1f} ms a request on average. Against the better of the two "
            f"for each request, known afterwards: {regret['regret_ms']:+.1f} ms (regret)."
        )
    return said


def warnings(report: Report) -> list[str]:
    """Return what a reader must know before believing the figures."""
    said = list(report["notes"])
    for side in ("direct", "pruned"):
        figures = report[side]
        if figures["total_input_tokens"] is None and figures["completed"]:
            said.append(f"the server ({side}) reports no usage: tokens, TPOT and break-even are unknown")
        cached, tokens = figures["total_cached_tokens"], figures["total_input_tokens"]
        if report["settings"]["cache"] == "cold" and cached and tokens and cached > 0.1 * tokens:
            said.append(
                f"{cached} of {tokens} tokens ({side}) came from the prefix cache although --cache cold"
            )
    if report["settings"]["cache"] == "warm" and len(report["by_position"]) == 1:
        said.append(
            "no case finds anything sent before although --cache warm: no group has a second case; raise "
            "--limit, or take a workload whose cases begin alike (shared-document, chat-long)"
        )
    rounds = [part["prune_ms"] for part in report["by_round"]]
    if len(rounds) > 1 and all(rounds) and min(rounds[1:]) < 0.7 * rounds[0]:
        said.append(
            f"pruning took {rounds[0]:.1f} ms in the first round and {min(rounds[1:]):.1f} ms later: the "
            "proxy remembers what it has read; new prompts are like the first round, so add cases, not rounds"
        )
    for error in report["errors"][:_ERRORS]:
        said.append(f"{error['count']} failed ({error['side']}, {error['kind']}): {error['message']}")
    if len(report["errors"]) > _ERRORS:
        said.append(f"and {len(report['errors']) - _ERRORS} more kinds of errors, which report.json lists")
    return said
