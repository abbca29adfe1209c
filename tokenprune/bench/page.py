"""What the HTML reports have in common: the style sheet, tables, and numbers that JSON can hold."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:1180px;padding:0 1rem;color:#222}
h1{font-size:1.6rem}h2{margin-top:2.4rem;border-bottom:1px solid #ddd}h3{font-size:1rem;margin-bottom:.3rem}
table{border-collapse:collapse;font-size:13px;margin:.5rem 0 1rem}
th,td{padding:.2rem .6rem;text-align:right;border-bottom:1px solid #eee}
th:first-child,td:first-child{text-align:left}tr.ours td:first-child{color:#d1495b;font-weight:600}
table.prose td,table.prose th{text-align:left;vertical-align:top}
svg{max-width:100%;height:auto}.meta,.note{color:#666;font-size:13px}
"""


def plain(value: Any) -> Any:
    """Return the value with null for NaN and infinities: JSON has none, and they stand for "not measured"."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    return [plain(v) for v in value] if isinstance(value, list | tuple) else value


def table(
    head: Sequence[str], rows: Iterable[Sequence[str]], ours: Sequence[bool] = (), *, prose: bool = False
) -> str:
    """Return an HTML table of texts; rows whose ``ours`` is true stand out, ``prose`` is set to the left."""
    body = []
    for i, row in enumerate(rows):
        mark = ' class="ours"' if i < len(ours) and ours[i] else ""
        body.append(f"<tr{mark}>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>")
    kind = ' class="prose"' if prose else ""
    return f"<table{kind}><tr>{''.join(f'<th>{escape(h)}</th>' for h in head)}</tr>{''.join(body)}</table>"
