"""What every section is handed: the options, the data folder, the progress bar, the notes."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks.common.store import Store

T = TypeVar("T")


def progress_bar() -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    )


@dataclass
class Context:
    options: argparse.Namespace
    data: Path | None
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
