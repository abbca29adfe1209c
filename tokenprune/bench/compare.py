"""From rows to the report: ratios, differences, their intervals and all figures, over complete pairs only.

What is counted or is per second (requests, failures, throughput) is of all requests of a route.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tokenprune.arrays import FloatArray
from tokenprune.bench import published
from tokenprune.bench.breakdown import breakdown
from tokenprune.bench.breakeven import break_even
from tokenprune.bench.case import Case
from tokenprune.bench.decisions import PRUNED, counts, regret, why_no_verdict
from tokenprune.bench.rows import SIDES, Pair, Row, Side, pairs_of
from tokenprune.bench.sides import summary
from tokenprune.bench.statistics import ENOUGH, bootstrap
from tokenprune.quality import contains_answer, exact_match, token_f1

_GAP = 1.2  # prompts whose lengths lie further apart are of different groups of lengths
_WIDE = 1.5  # a group of lengths is parted when its longest is longer than this times its shortest


def report(
    rows: list[Row],
    cases: Sequence[Case],
    durations_s: Mapping[Side, float],
    goodput: Mapping[str, float],
    seed: int,
    warm: bool,
) -> dict[str, Any]:
    """Return all figures, JSON-able.

    Args:
        rows: every request, failed ones included.
        cases: the workload.
        durations_s: time in which each route was at work.
        goodput: objectives in ms.
        seed: of the bootstraps.
        warm: the prefix cache was warm: time then depends on more than the prompt's length.
    """
    by_side = {side: [row for row in rows if row.side == side] for side in SIDES}
    pairs = pairs_of(rows)
    why_not = why_no_verdict(rows)
    found: dict[str, Any] = {
        "no_verdict": why_not,
        **compared(pairs, seed),
        "efficiency": efficiency(pairs) if why_not is None else None,
        **_break_even(pairs, seed, warm, why_not),
        "pairs": len(pairs),
        "cases": len({p.direct.case for p in pairs}),
        **{
            side: summary(by_side[side], durations_s[side], goodput, _of_pairs(pairs, side)) for side in SIDES
        },
        "decisions": counts([row for row in by_side["pruned"] if row.measured]),
        "regret": regret(pairs),
        "breakdown": breakdown([p.pruned for p in pairs]),
        "quality": {
            side: quality(_of_pairs(pairs, side) or [r for r in by_side[side] if r.measured], cases)
            for side in SIDES
        },
        "by_length": by_length(pairs, seed),
        "by_round": _slices(pairs, lambda p: f"round {p.direct.round + 1}", seed),
        "by_position": _by_position(pairs, cases, seed) if warm else [],
        "errors": _errors(rows),
        "rescued": _rescued(rows),
    }
    return found | {"published": published.beside(found)}


def _of_pairs(pairs: Sequence[Pair], side: Side) -> list[Row] | None:
    """The requests of a route in complete pairs; None where there are none."""
    return [pair.pruned if side == "pruned" else pair.direct for pair in pairs] or None


def compared(pairs: Sequence[Pair], seed: int) -> dict[str, Any]:
    """Return ratio and difference of TTFT and E2EL with 95% intervals from a bootstrap over cases.

    ``*_ratio`` is the median of the direct requests over the median of the pruned ones: above 1, pruning is
    faster. ``*_difference_ms`` is the median of pruned minus direct within the pairs: below 0, pruning is
    faster. Intervals are null for fewer than `ENOUGH` cases.
    """
    found: dict[str, Any] = {}
    for name in ("ttft", "e2el"):
        data = _by_case(pairs, f"{name}_ms")
        ratio, difference = _ratio(data[None]), _difference(data[None])
        enough = len(data) >= ENOUGH
        found[f"{name}_ratio"] = float(ratio[0]) if pairs else None
        found[f"{name}_ratio_ci"] = bootstrap(data, _ratio, seed=seed) if enough else None
        found[f"{name}_difference_ms"] = float(difference[0]) if pairs else None
        found[f"{name}_difference_ms_ci"] = bootstrap(data, _difference, seed=seed) if enough else None
    kept = [
        p.pruned.tokens_in / p.direct.tokens_in for p in pairs if p.pruned.tokens_in and p.direct.tokens_in
    ]
    found["tokens_kept"] = float(np.median(kept)) if kept else None
    return found


def _by_case(pairs: Sequence[Pair], name: str) -> FloatArray:
    """Times as float64 [cases, rounds, 2] (direct, pruned), NaN where a round of a case has no pair."""
    grouped: dict[str, list[Pair]] = {}
    for pair in pairs:
        grouped.setdefault(pair.direct.case, []).append(pair)
    data = np.full((len(grouped), max(map(len, grouped.values()), default=1), 2), np.nan)
    for i, members in enumerate(grouped.values()):
        for j, pair in enumerate(members):
            data[i, j] = getattr(pair.direct, name), getattr(pair.pruned, name)
    return data


def _ratio(drawn: FloatArray) -> FloatArray:
    """Ratio of the medians, [b], from [b, cases, rounds, 2]."""
    medians = _medians(drawn.reshape(len(drawn), -1, 2))
    return np.asarray(medians[:, 0] / medians[:, 1])


def _difference(drawn: FloatArray) -> FloatArray:
    flat = drawn.reshape(len(drawn), -1, 2)
    return _medians(flat[:, :, 1] - flat[:, :, 0])


def _medians(values: FloatArray) -> FloatArray:
    if not values.shape[1]:
        return np.full((len(values), *values.shape[2:]), np.nan)
    reduce = np.nanmedian if np.isnan(values).any() else np.median
    return np.asarray(reduce(values, axis=1))


def efficiency(pairs: Sequence[Pair]) -> float | None:
    """Return the measured speed-up over the one that a pruner without any cost of time would give.

    The latter takes ``x-tokenprune-ms`` off the TTFT of each pruned request. None without that header.
    """
    known = [p.pruned for p in pairs if p.pruned.prune_ms is not None and p.pruned.ttft_ms is not None]
    if not known or len(known) < len(pairs):
        return None
    measured = np.median([row.ttft_ms for row in known if row.ttft_ms is not None])
    instant = np.median([max(0.0, (row.ttft_ms or 0.0) - (row.prune_ms or 0.0)) for row in known])
    return float(instant / measured)


def _break_even(pairs: Sequence[Pair], seed: int, warm: bool, why_not: str | None) -> dict[str, Any]:
    if why_not is not None or warm:
        text = "not known: with a warm cache, time depends on more than the length; use --cache cold"
        text = text if why_not is None else f"not known: {why_not}"
        return {"break_even_tokens": None, "break_even": {"tokens": None, "status": "unknown", "text": text}}
    found = break_even(*_points(pairs), seed=seed)
    return {"break_even_tokens": found["tokens"], "break_even": found}


def _points(pairs: Sequence[Pair]) -> tuple[FloatArray, FloatArray, FloatArray, Any]:
    """Median times of each case whose length is known, and whether it was pruned (a missing header: yes)."""
    grouped: dict[str, list[Pair]] = {}
    for pair in pairs:
        if pair.direct.tokens_in:
            grouped.setdefault(pair.direct.case, []).append(pair)
    rows = [
        (
            np.median([p.direct.tokens_in or 0 for p in members]),
            np.median([p.direct.ttft_ms or 0.0 for p in members]),
            np.median([p.pruned.ttft_ms or 0.0 for p in members]),
            all(p.pruned.decision in (PRUNED, None) for p in members),
        )
        for members in grouped.values()
    ]
    columns = np.array(rows, dtype=float).reshape(-1, 4)
    return columns[:, 0], columns[:, 1], columns[:, 2], columns[:, 3] > 0


def by_length(pairs: Sequence[Pair], seed: int) -> list[dict[str, Any]]:
    """Return the comparison for groups of prompts of like lengths, the shortest first."""
    known = sorted((p for p in pairs if p.direct.tokens_in), key=_length)
    return [
        {"tokens": float(np.median([_length(p) for p in part])), **_slice(part, seed)}
        for part in _parted(known)
    ]


def _length(pair: Pair) -> int:
    return pair.direct.tokens_in or 0


def _parted(pairs: list[Pair]) -> list[list[Pair]]:
    """Part at the widest gap while there is one, and at the middle while the lengths are far apart."""
    lengths = np.array([_length(p) for p in pairs], dtype=float)
    if len(pairs) < 2 or lengths[-1] <= _WIDE * lengths[0]:
        return [pairs] if pairs else []
    gaps = lengths[1:] / lengths[:-1]
    at = int(gaps.argmax()) + 1 if gaps.max() > _GAP else len(pairs) // 2
    if gaps.max() <= _GAP and len(pairs) < 8:
        return [pairs]
    return [*_parted(pairs[:at]), *_parted(pairs[at:])]


def _slices(pairs: Sequence[Pair], name_of: Callable[[Pair], str], seed: int) -> list[dict[str, Any]]:
    grouped: dict[str, list[Pair]] = {}
    for pair in pairs:
        grouped.setdefault(name_of(pair), []).append(pair)
    return [{"name": name, **_slice(part, seed)} for name, part in grouped.items()]


def _slice(pairs: Sequence[Pair], seed: int) -> dict[str, Any]:
    prune = [p.pruned.prune_ms for p in pairs if p.pruned.prune_ms is not None]
    evidence = [p.pruned.evidence_recall for p in pairs if p.pruned.evidence_recall is not None]
    found = compared(pairs, seed)
    return {
        "pairs": len(pairs),
        "cases": len({p.direct.case for p in pairs}),
        "direct_ttft_ms": float(np.median([p.direct.ttft_ms or 0.0 for p in pairs])),
        "pruned_ttft_ms": float(np.median([p.pruned.ttft_ms or 0.0 for p in pairs])),
        "prune_ms": float(np.median(prune)) if prune else None,
        **{key: found[key] for key in ("ttft_ratio", "ttft_ratio_ci", "e2el_ratio", "tokens_kept")},
        "pruned": sum(p.pruned.decision == PRUNED for p in pairs),
        "evidence_recall": float(np.mean(evidence)) if evidence else None,
    }


def _by_position(pairs: Sequence[Pair], cases: Sequence[Case], seed: int) -> list[dict[str, Any]]:
    """First of its group, or a later one that finds the group's prefix in the cache."""
    seen: set[str] = set()
    later = set()
    for case in cases:
        if case.group is not None:
            if case.group in seen:
                later.add(case.id)
            seen.add(case.group)
    return _slices(pairs, lambda p: "later" if p.direct.case in later else "first", seed)


def quality(rows: Sequence[Row], cases: Sequence[Case]) -> dict[str, Any]:
    """Return means of the answers' metrics over the requests for which they are known, and their numbers."""
    golds = {case.id: case.answers for case in cases if case.answers}
    found: dict[str, Any] = {}
    answered = [(row.text, golds[row.case]) for row in rows if row.case in golds]
    for name, metric in (("em", exact_match), ("f1", token_f1), ("contains_answer", contains_answer)):
        found[name] = float(np.mean([metric(t, g) for t, g in answered])) if answered else None
    found["answers"] = len(answered)
    for name in ("evidence_recall", "nll"):
        values = [value for row in rows if (value := getattr(row, name)) is not None]
        found[name] = float(np.mean(values)) if values else None
        found[f"{name}_n"] = len(values)
    return found


def _errors(rows: Sequence[Row]) -> list[dict[str, Any]]:
    found = Counter((row.side, row.error_kind or "", row.error or "") for row in rows if row.error)
    return [{"side": s, "kind": k, "message": m, "count": n} for (s, k, m), n in found.most_common()]


def _rescued(rows: Sequence[Row]) -> int:
    """Requests that were too long for the model, and that pruning made fit."""
    lost = {(r.case, r.round) for r in rows if r.side == "direct" and r.error_kind == "too-long"}
    return sum(r.side == "pruned" and r.measured and (r.case, r.round) in lost for r in rows)
