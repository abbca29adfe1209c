"""One pruned request in parts: reading, each step of pruning, the way through the proxy, the model server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tokenprune.bench.rows import Row
from tokenprune.receipt import STEPS

# Name -> what it is; in the order of time, but for the proxy's way, part of which comes last.
PARTS = {
    "parse": "parse: read, find documents, decide, write",
    "count": "count tokens",
    "segment": "segment",
    "score": "score",
    "select": "select",
    "render": "render",
    "proxy": "proxy: connections, passing on",
    "upstream": "upstream: prefill of what is left",
}


def parts_of(row: Row) -> dict[str, float] | None:
    """Return the milliseconds until the first token by part; None where they are not known.

    Where the proxy does not tell how long the upstream took, ``upstream`` holds the way through the proxy
    as well.
    """
    if not row.measured or not row.steps_ms or row.prune_ms is None or row.ttft_ms is None:
        return None
    steps = {step: row.steps_ms.get(step, 0.0) for step in STEPS}
    rest = max(0.0, row.ttft_ms - row.prune_ms)
    upstream = rest if row.upstream_ms is None else min(row.upstream_ms, rest)
    parse = max(0.0, row.prune_ms - sum(steps.values()))
    return {"parse": parse, **steps, "proxy": rest - upstream, "upstream": upstream}


def breakdown(rows: Sequence[Row]) -> dict[str, Any] | None:
    """Return the parts of a median request, and the median of each part over all pruned requests.

    Returns:
        None where no request has known parts. ``shown``: parts of the request whose TTFT is the median one
        (of an even number the lower), which add up to its ``ttft_ms``; ``median``, ``p90``: of each part by
        itself, which do not.
    """
    known = [(row, parts) for row in rows if (parts := parts_of(row)) is not None]
    if not known:
        return None
    known.sort(key=lambda pair: pair[0].ttft_ms or 0.0)
    row, shown = known[(len(known) - 1) // 2]
    columns = {name: [parts[name] for _, parts in known] for name in PARTS}
    return {
        "requests": len(known),
        "case": row.case,
        "ttft_ms": row.ttft_ms,
        "upstream_known": row.upstream_ms is not None,
        "shown": shown,
        "median": {name: float(np.median(values)) for name, values in columns.items()},
        "p90": {name: float(np.percentile(values, 90)) for name, values in columns.items()},
    }
