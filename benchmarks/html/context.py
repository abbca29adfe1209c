"""What every section is handed: the options, the methods, the progress bar, the notes."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from rich.progress import Progress

from benchmarks.html.methods import Method
from benchmarks.html.store import Store

T = TypeVar("T")


@dataclass
class Context:
    options: argparse.Namespace
    data: Path | None
    methods: list[Method]
    progress: Progress
    notes: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        self.notes.append(text)
        self.progress.console.print(f"note: {text}", markup=False, highlight=False)

    def store(self, section: str) -> Store:
        return Store(self.options.out / "cache" / f"{section}.jsonl", fresh=self.options.fresh)

    def track(self, items: Iterable[T], total: int, label: str) -> Iterator[T]:
        task = self.progress.add_task(label, total=total)
        for item in items:
            yield item
            self.progress.advance(task)
