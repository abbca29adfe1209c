"""Workloads by the path of a JSONL file whose lines are the fields of `Case`."""

from __future__ import annotations

import json
from pathlib import Path

from tokenprune.bench.case import Case
from tokenprune.errors import MeasureError

NAMES: tuple[str, ...] = ()


def load(name_or_path: str, limit: int | None = None, seed: int = 0) -> list[Case]:
    """Read the cases of a file, at most ``limit``."""
    try:
        lines = Path(name_or_path).read_text("utf-8").splitlines()
    except OSError as error:
        raise MeasureError(f"cannot read the workload {name_or_path}: {error.strerror}") from error
    return [Case(**json.loads(line)) for line in lines if line.strip()][:limit]
