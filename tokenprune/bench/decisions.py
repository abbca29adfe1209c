"""What the proxy decided, and what better decisions would have saved."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from tokenprune.bench.rows import Pair, Row

PRUNED = "pruned"
HEADER = "x-tokenprune-decision"
NO_HEADER = f"without {HEADER}"


def counts(rows: Sequence[Row]) -> dict[str, int]:
    """Count the decisions of the requests over the proxy, the most frequent first."""
    return dict(Counter(row.decision or NO_HEADER for row in rows).most_common())


def why_no_verdict(rows: Sequence[Row]) -> str | None:
    """Return why the routes cannot be compared as with and without pruning, and what to do; None: they can.

    Without this, a wrong URL would look like a pruning that does not pay.
    """
    direct = [row for row in rows if row.side == "direct" and row.measured]
    proxied = [row for row in rows if row.side == "pruned" and row.measured]
    both = sum(row.decision == PRUNED for row in direct)
    if both:
        return (
            f"THE DIRECT ROUTE PRUNES TOO: {both} of {len(direct)} direct answers say {HEADER}: {PRUNED}, so "
            "that this run says nothing about pruning. Give --direct the URL of the server behind the proxy, "
            "or the same URL for both options: direct requests then ask the proxy not to prune."
        )
    found = counts(proxied)
    if not found or PRUNED in found:
        return None
    if set(found) == {NO_HEADER}:
        return (
            f"NOTHING WAS PRUNED, as far as can be seen: no answer over --proxy has the header {HEADER}. "
            "Give --proxy the URL of a tokenprune proxy."
        )
    said = ", ".join(f"{n} {decision}" for decision, n in found.items())
    return (
        f"NOTHING WAS PRUNED: the proxy decided {said}. Give it longer prompts, or settings under which it "
        "prunes them; this run says only what the way over the proxy costs."
    )


def regret(pairs: Sequence[Pair]) -> dict[str, Any] | None:
    """Compare the decisions with never and with always pruning, by TTFT in milliseconds.

    Of a pruned request both sides are known: it was right to prune when it was faster than its direct
    partner. Of a request that was not pruned only the cost of the proxy is known, unless the third route
    (``--always``) was taken as well.

    Returns:
        None without pairs. All ``_ms`` are means over the pairs they speak of, chosen minus alternative:
        negative means that what was chosen is better. ``regret_ms`` is against the better alternative of
        each request, known afterwards: it is 0 at best, but for what the proxy costs.
    """
    if not pairs:
        return None
    direct = np.array([p.direct.ttft_ms for p in pairs])
    chosen = np.array([p.pruned.ttft_ms for p in pairs])
    pruned = np.array([p.pruned.decision == PRUNED for p in pairs])
    always = np.array([_always(p) for p in pairs])
    known = not np.isnan(always).any()
    gap = chosen - direct
    return {
        "pairs": len(pairs),
        "pruned": int(pruned.sum()),
        "pruned_slower": int((gap[pruned] > 0).sum()),
        "regret_pruned_ms": float(np.maximum(gap[pruned], 0).mean()) if pruned.any() else None,
        "skipped": int((~pruned).sum()),
        "overhead_skipped_ms": float(np.median(gap[~pruned])) if not pruned.all() else None,
        "against_never_ms": float(gap.mean()),
        "against_always_ms": float((chosen - always).mean()) if known else None,
        "regret_ms": float((chosen - np.minimum(direct, always)).mean()) if known else None,
    }


def _always(pair: Pair) -> float:
    """TTFT of the request when it is pruned in any case, NaN where nobody tried."""
    if pair.always is not None and pair.always.ttft_ms is not None:
        return pair.always.ttft_ms
    pruned = pair.pruned
    return pruned.ttft_ms if pruned.decision == PRUNED and pruned.ttft_ms is not None else np.nan
