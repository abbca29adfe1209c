"""The figures of one route, under the key names of vLLM's benchmark client."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tokenprune.bench.rows import Row
from tokenprune.bench.statistics import spread
from tokenprune.errors import MeasureError

SLO_NAMES = ("ttft", "tpot", "e2el")


def read_goodput(texts: Sequence[str]) -> dict[str, float]:
    """Return objectives in milliseconds from ``NAME:MS`` words, as vLLM's ``--goodput`` takes them.

    Raises:
        MeasureError: a word of another form, an unknown name or a negative number.
    """
    found: dict[str, float] = {}
    for word in " ".join(texts).split():
        name, _, value = word.partition(":")
        try:
            limit = float(value)
        except ValueError:
            limit = -1.0
        if name not in SLO_NAMES or not limit >= 0:
            raise MeasureError(
                f"--goodput {word}: give NAME:MILLISECONDS with one of {', '.join(SLO_NAMES)}, e.g. ttft:500"
            )
        found[name] = limit
    return found


def summary(
    rows: Sequence[Row],
    duration_s: float,
    goodput: Mapping[str, float],
    compared: Sequence[Row] | None = None,
) -> dict[str, Any]:
    """Return the figures of one route.

    Args:
        rows: all of its requests; those that failed are counted, and enter nothing else.
        duration_s: time in which this route was at work, seconds.
        goodput: objectives in ms; a request is good when it meets all of them. As in vLLM, TPOT is 0 for an
            answer of one token.
        compared: those of which times and tokens are told, so that two routes are told of the same requests;
            what is counted or per second is of all. None: all that went well.
    """
    good = [row for row in rows if row.measured]
    shown = good if compared is None else compared
    tokens_in, tokens_out = _total(good, "tokens_in"), _total(good, "tokens_out")
    cached = [row.cached_tokens for row in shown if row.cached_tokens is not None]

    def per_second(value: float | None) -> float | None:
        return None if value is None or duration_s <= 0 else value / duration_s

    both = None if tokens_in is None or tokens_out is None else tokens_in + tokens_out
    found: dict[str, Any] = {
        "duration": duration_s,
        "completed": len(good),
        "failed": len(rows) - len(good),
        "total_input_tokens": _total(shown, "tokens_in"),
        "total_output_tokens": _total(shown, "tokens_out"),
        "total_cached_tokens": sum(cached) if cached else None,
        "median_input_tokens": _median([r.tokens_in for r in shown]),
        "median_output_tokens": _median([r.tokens_out for r in shown]),
        "request_throughput": per_second(len(good)),
        "request_goodput": per_second(_good(good, goodput)) if goodput else None,
        "output_throughput": per_second(tokens_out),
        "total_token_throughput": per_second(both),
    }
    for name in ("ttft_ms", "tpot_ms", "e2el_ms", "prune_ms"):
        found |= spread([v for row in shown if (v := getattr(row, name)) is not None], name)
    return found | spread([gap for row in shown for gap in row.itl_ms], "itl_ms")


def _total(rows: Sequence[Row], name: str) -> int | None:
    """Sum of a count, None where the server does not tell it for every request."""
    values = [getattr(row, name) for row in rows]
    return None if not values or None in values else sum(values)


def _median(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return float(np.median(known)) if known else None


def _good(rows: Sequence[Row], goodput: Mapping[str, float]) -> int | None:
    if "tpot" in goodput and any(row.tokens_out is None for row in rows):
        return None
    return sum(all((getattr(r, f"{n}_ms") or 0.0) <= limit for n, limit in goodput.items()) for r in rows)
