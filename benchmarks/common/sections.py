"""Sections of a benchmark: each is a module with ``run(context)``; the last result of each is kept."""

from __future__ import annotations

import argparse
import gc
import json
import os
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.common.context import Context
from benchmarks.common.store import code_version
from tokenprune.bench.machine import machine


def take(context: Context, package: str, name: str) -> None:
    """Run a section and keep its result, unless it was skipped and an earlier result is there."""
    kept = context.options.out / "sections"
    kept.mkdir(parents=True, exist_ok=True)
    begin = time.perf_counter()
    result = import_module(f"{package}.{name}").run(context)
    result |= {
        "section_seconds": time.perf_counter() - begin,
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "code": code_version(),
        "notes": context.notes,
        "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else [],
    }
    gc.unfreeze()  # sections that time something freeze what the imports left behind
    path = kept / f"{name}.json"
    if "skipped" in result and path.exists():
        context.note(f"{name} was skipped ({result['skipped']}); the report keeps its earlier result")
        return
    path.write_text(json.dumps(result), encoding="utf-8")


def taken(out: Path, names: Sequence[str]) -> dict[str, Any]:
    """Return the last result of every section, run now or before."""
    found = {name: out / "sections" / f"{name}.json" for name in names}
    return {name: json.loads(path.read_text("utf-8")) for name, path in found.items() if path.exists()}


def heading(command: str) -> dict[str, Any]:
    """Return what a report says of itself."""
    return {
        "machine": machine(),
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "code": code_version(),
        "command": command.strip(),
    }


def shrink(options: argparse.Namespace, parser: argparse.ArgumentParser, quick: dict[str, Any]) -> None:
    """Put the small sizes of a quick run in for options that were not given, and its folder."""
    if not options.quick:
        return
    for name, value in quick.items():
        if getattr(options, name) == parser.get_default(name):
            setattr(options, name, value)
    if options.out == parser.get_default("out"):
        options.out = options.out / "quick"  # a quick report must not replace a real one
