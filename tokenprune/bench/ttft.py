"""``tokenprune bench ttft``: the same requests with and without the proxy, next to each other."""

from __future__ import annotations

import asyncio
import platform
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenprune import __version__
from tokenprune.bench import runs, ttft_report, workloads
from tokenprune.bench.case import Case
from tokenprune.bench.client import Server
from tokenprune.bench.folder import made
from tokenprune.bench.machine import machine
from tokenprune.bench.receipts import texts_of
from tokenprune.bench.rows import Row
from tokenprune.bench.session import Measured, Progress, Session
from tokenprune.bench.settings import Settings
from tokenprune.errors import MeasureError
from tokenprune.models.catalog import resolve_model

if TYPE_CHECKING:
    from rich.console import Console


def run(settings: Settings, command: str, console: Console, progress: Console) -> dict[str, Any]:
    """Measure, write the report into ``settings.out`` and print it.

    Args:
        settings: of the run.
        command: the command line, for the report; without secrets.
        console: where the tables go.
        progress: where the progress bar goes, when it is a terminal.

    Returns:
        The report as in report.json, but for its rows: rows of requests are in ``rows``.

    Raises:
        MeasureError: a server cannot be reached, or nothing could be measured.
        ConfigError: there is no such workload, or it has no cases, or the folder cannot be written.
        KeyboardInterrupt: before anything was measured.
    """
    cases = workloads.load(
        settings.workload, settings.limit, settings.seed, shared_first=settings.cache == "warm"
    )
    if settings.nll is not None:
        resolve_model(settings.nll)  # a wrong name must not be found out when all is measured
    made(settings.out)
    started = _run(settings, cases, Measured(), command)
    runs.write(replace(started, durations_s={}), settings.out)
    with (settings.out / runs.ROWS).open("w", encoding="utf-8") as log, _bar(progress) as advance:
        try:
            measured = asyncio.run(Session(settings, cases, log, advance).run())
        except KeyboardInterrupt:
            progress.print("tokenprune: interrupted before anything was measured", soft_wrap=True)
            raise
        if settings.nll is not None:
            runs.write(_run(settings, cases, measured, command, started.about["date"]), settings.out)
            _expect(measured, cases, settings.nll, advance)
    runs.write(_run(settings, cases, measured, command, started.about["date"]), settings.out)
    report = show(settings.out, settings.out, console)
    if not report["direct"]["completed"] or not report["pruned"]["completed"]:
        raise MeasureError("on one of the routes not one request was answered; the report lists the errors")
    if measured.interrupted:
        raise MeasureError(
            f"interrupted: the report holds {len(measured.rows)} of {measured.planned} planned requests"
        )
    return report


def show(folders: Path | Sequence[Path], out: Path, console: Console) -> dict[str, Any]:
    """Make the report of a run, or of several on the same target, from what is on disk, and print it.

    Args:
        folders: of the runs.
        out: where report.json and report.html go.
        console: where the tables go.

    Raises:
        MeasureError: a folder holds no run, or the runs do not belong together.
    """
    run = runs.merged([runs.read(folder) for folder in ([folders] if isinstance(folders, Path) else folders)])
    report = run.report()
    made(out)
    ttft_report.write_json(report, out)
    ttft_report.write_html(report, run.rows, out)
    ttft_report.show(report, console)
    console.print(f"{out / 'report.html'}\n{out / 'report.json'}", soft_wrap=True, highlight=False)
    return report


def _run(
    settings: Settings, cases: Sequence[Case], measured: Measured, command: str, date: str | None = None
) -> runs.Run:
    asked = asdict(settings) | {
        "direct": Server.at(settings.direct).shown,
        "proxy": Server.at(settings.proxy).shown,
        "out": str(settings.out),
        "model": measured.model or settings.model,
        "rounds": settings.rounds or (2 if settings.loaded else 1),
    }
    del asked["api_key"]
    return runs.Run(
        rows=measured.rows,
        cases=runs.known_of(cases),
        durations_s=measured.durations_s,
        settings=asked,
        about={
            "command": command,
            "machine": machine(),
            "date": date or time.strftime("%Y-%m-%d %H:%M"),
            "versions": _versions(measured.server),
        },
        notes=measured.notes,
        planned=measured.planned,
        interrupted=measured.interrupted,
    )


def _versions(server: str | None) -> dict[str, str]:
    found = {"tokenprune": __version__, "python": platform.python_version(), "aiohttp": version("aiohttp")}
    return found | ({"server": server} if server else {})


def _expect(measured: Measured, cases: Sequence[Case], name: str, progress: Progress) -> None:
    """Fill in the NLL of the gold answers where the prompt is known; the same prompt is read once."""
    from tokenprune.models.causal_lm import load_causal_lm
    from tokenprune.quality import answer_nll

    lm = load_causal_lm(name)
    answers = {case.id: case.answers[0] for case in cases if case.answers}
    known: dict[tuple[str, str], float | None] = {}
    work = [(n, m) for n, m in measured.prompts.items() if measured.rows[n].case in answers]
    try:
        for done, (number, messages) in enumerate(work):
            row: Row = measured.rows[number]
            key = (row.case, repr(messages))
            if key not in known:
                plain = [{"role": m["role"], "content": "\n".join(texts_of([m]))} for m in messages]
                known[key] = answer_nll(lm, plain, answers[row.case])
            row.nll = known[key]
            progress(done + 1, len(work), "NLL of the gold answers")
    except KeyboardInterrupt:
        measured.interrupted = True
    if any(measured.rows[number].nll is None for number, _ in work):
        measured.notes.append(f"NLL is unknown for some prompts, which exceed the positions of {name}")


@contextmanager
def _bar(console: Console) -> Iterator[Progress]:
    if not console.is_terminal:
        yield lambda done, total, what: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=None)

        def advance(done: int, total: int, what: str) -> None:
            bar.update(task, completed=done, total=total or None, description=what)

        yield advance
