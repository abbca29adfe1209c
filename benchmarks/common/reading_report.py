"""The table of methods that read prompts, as reports show it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.common.report import spread
from tokenprune.bench.page import table

HEAD = (
    "method", "n", "tokens", "read to the end", "answer kept", "given", "F1", "NLL", "against full", "95%",
    "first token s", "times faster", "range", "peak KV MB", "aux MB",
)  # fmt: skip


def methods_table(rows: Sequence[dict[str, Any]]) -> str:
    return table(HEAD, [cells(row) for row in rows], [_ours(row) for row in rows])


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    return (
        row["method"],
        str(row["n"]),
        f"{row['tokens']:.0f}",
        f"{row['kept']:.0f}",
        f"{row['answer_kept']}/{row['answerable']}",
        f"{row['answered']}/{row['n']}",
        f"{row['f1']:.3f}",
        f"{row['nll']:.3f}",
        f"{row['nll_gap']:+.3f}",
        spread(row["nll_gap_ci"], True),
        f"{row['seconds']:.2f}",
        f"{row['speedup']:.2f}",
        "{:.2f} to {:.2f}".format(*row["speedup_range"]),
        f"{row['peak_kv_mb']:.1f}",
        f"{row['aux_mb']:.1f}",
    )


def _ours(row: dict[str, Any]) -> bool:
    return "gemfilter-q" in row["method"] or "provence" in row["method"]
