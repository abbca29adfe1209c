"""Progress of long work on stderr: a bar on a terminal, nothing elsewhere (logs and pipes stay clean)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Reporter(Protocol):
    """What long work calls while it goes on."""

    def stage(self, label: str, total: float | None) -> None:
        """Begin a stage of ``total`` units of work (None: unknown)."""

    def advance(self, amount: float) -> None:
        """Add ``amount`` done units."""

    def update(self, done: float, total: float | None = None) -> None:
        """Set the done units, and the total when it became known."""


class _Silent:
    def stage(self, label: str, total: float | None) -> None:
        """Ignore."""

    def advance(self, amount: float) -> None:
        """Ignore."""

    def update(self, done: float, total: float | None = None) -> None:
        """Ignore."""


SILENT: Reporter = _Silent()


@contextmanager
def reporting(title: str) -> Iterator[Reporter]:
    """Yield a reporter that draws a bar while stderr is a terminal."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield SILENT
        return
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.fields[title]}"),
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("starting", total=None, title=title)

        class Bar:
            def stage(self, label: str, total: float | None) -> None:
                progress.reset(task, description=label, total=None)
                progress.update(task, total=total)

            def advance(self, amount: float) -> None:
                progress.advance(task, amount)

            def update(self, done: float, total: float | None = None) -> None:
                progress.update(task, completed=done, total=total)

        yield Bar()
