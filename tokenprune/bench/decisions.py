"""What the proxy decided, and what better decisions would have saved."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from tokenprune.bench.rows import Pair, Row

PRUNED = "pruned"
NO_HEADER = "no x-tokenprune-decision header"


def counts(rows: Sequence[Row]) -> dict[str, int]:
    """Count the decisions of the requests over the proxy, the most frequent first."""
    return dict(Counter(row.decision or NO_HEADER for row in rows).most_common())


def regret(pairs: Sequence[Pair]) -> dict[str, Any] | None:
    """Compare the decisions with never and with always pruning, by TTFT in milliseconds.

    Of a pruned request both sides are known: it was right to prune when it was faster than its direct
    partner. Of a request that was not pruned only the cost of the proxy is known, not what pruning would
    have given; so "always" is known only when every request was pruned, and else takes a second run with
    the gate off.

    Returns:
        None without pairs. All ``_ms`` are means over the pairs they speak of, chosen minus alternative:
        negative means that what was chosen is better.
    """
    if not pairs:
        return None
    direct = np.array([p.direct.ttft_ms for p in pairs])
    chosen = np.array([p.pruned.ttft_ms for p in pairs])
    pruned = np.array([p.pruned.decision == PRUNED for p in pairs])
    gap = chosen - direct
    return {
        "pairs": len(pairs),
        "pruned": int(pruned.sum()),
        "pruned_slower": int((gap[pruned] > 0).sum()),
        "regret_pruned_ms": float(np.maximum(gap[pruned], 0).mean()) if pruned.any() else None,
        "skipped": int((~pruned).sum()),
        "overhead_skipped_ms": float(np.median(gap[~pruned])) if not pruned.all() else None,
        "against_never_ms": float(gap.mean()),
        "against_always_ms": 0.0 if pruned.all() else None,
    }
