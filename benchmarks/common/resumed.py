"""Results that are written row by row, so that a run that was stopped goes on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenprune.bench.machine import machine


def resumed(file: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a run with the same settings left in ``file``, else the beginning of a result."""
    result: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    if result.get("settings") != settings:
        return {"settings": dict(settings), "machine": machine(), "rows": []}
    return result


def add_row(file: Path, result: dict[str, Any], row: Mapping[str, Any]) -> None:
    """Add a row to a result, in ``file`` as well, and print it."""
    result["rows"].append(row)
    file.write_text(json.dumps(result, indent=1) + "\n")
    print(row, flush=True)
