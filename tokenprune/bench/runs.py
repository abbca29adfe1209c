"""A run on disk: ``rows.jsonl``, a line for each request, and ``run.json``, which says what the rows are of.

A report is made of these two and of nothing else, so that it can be made again, and of several runs.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tokenprune.bench import compare
from tokenprune.bench.case import Case
from tokenprune.bench.rows import SIDES, Row, Side
from tokenprune.errors import MeasureError
from tokenprune.folders import whole_file

ROWS, ABOUT = "rows.jsonl", "run.json"
# What must be the same for rows of several runs to stand in one report.
_SAME = ("direct", "proxy", "model", "cache", "concurrency", "rate", "max_tokens")


@dataclass(frozen=True)
class Run:
    """What was measured.

    Attributes:
        rows: every request.
        cases: what the report needs of them: ``id``, ``group`` and ``answers``.
        durations_s: time in which each route was at work; empty: the run did not come to its end.
        settings: of the run, as the report shows them.
        about: what a report says of itself: command, machine, date, versions.
        notes: what a reader must know.
        planned: requests that were to be sent.
        interrupted: stopped before all was sent.
    """

    rows: list[Row]
    cases: list[dict[str, Any]]
    durations_s: dict[Side, float]
    settings: dict[str, Any]
    about: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    planned: int = 0
    interrupted: bool = False

    def report(self) -> dict[str, Any]:
        """Return all figures and what stands beside them, JSON-able; rows of requests are in ``rows``."""
        cases = [Case(c["id"], (), "", tuple(c["answers"]), group=c["group"]) for c in self.cases]
        settings, notes = self.settings, list(self.notes)
        durations = {side: self.durations_s.get(side, 0.0) for side in SIDES}
        if self.interrupted:
            notes.append(f"interrupted after {len(self.rows)} of {self.planned} planned requests")
        elif not self.durations_s:
            notes.append("the run did not come to its end: rates are unknown, evidence and NLL may lack")
        found = compare.report(
            self.rows, cases, durations, settings["goodput"], settings["seed"], settings["cache"] == "warm"
        )
        return {
            **found,
            "notes": notes,
            "interrupted": self.interrupted,
            "settings": settings,
            **self.about,
            "rows": [row.to_dict() for row in self.rows],
        }


def known_of(cases: Sequence[Case]) -> list[dict[str, Any]]:
    """Return what `Run` keeps of cases."""
    return [{"id": c.id, "group": c.group, "answers": list(c.answers)} for c in cases]


def write(run: Run, folder: Path) -> None:
    """Write both files; the rows as they are now, evidence and NLL included."""
    about = {key: value for key, value in vars(run).items() if key != "rows"}
    lines = (json.dumps(row.to_dict()) + "\n" for row in run.rows)
    for name, text in ((ABOUT, json.dumps(about, indent=1) + "\n"), (ROWS, "".join(lines))):
        # Beside it first: a run that is killed here must not lose the rows it has logged.
        with whole_file(folder / name) as part:
            part.write_text(text, encoding="utf-8")


def read(folder: Path) -> Run:
    """Read a run.

    Raises:
        MeasureError: a file is missing or cannot be read; the message says which, and where.
    """
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        *lines, last = (folder / ROWS).read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise MeasureError(
            f"{folder} holds no run: {error.strerror} ({error.filename}); give the --out folder of a "
            "`tokenprune bench ttft`"
        ) from None
    except ValueError as error:
        raise MeasureError(f"{folder / ABOUT} is not JSON: {error}") from None
    rows = []
    with contextlib.suppress(ValueError):  # a killed run may end within a line
        json.loads(last)
        lines.append(last)
    for number, line in enumerate(lines, 1):
        try:
            rows.append(Row(**json.loads(line)))
        except (TypeError, ValueError) as error:
            raise MeasureError(f"{folder / ROWS}, line {number} is no row of a run: {error}") from None
    try:
        return Run(rows=rows, **about)
    except TypeError as error:
        raise MeasureError(f"{folder / ABOUT} is of another version of tokenprune: {error}") from None


def merged(runs: Sequence[Run]) -> Run:
    """Put runs on the same target together; their cases are told apart by workload and round.

    Raises:
        MeasureError: they were not run against the same servers and model in the same way.
    """
    first, *others = runs
    for run in others:
        for key in _SAME:
            if run.settings[key] != first.settings[key]:
                raise MeasureError(
                    f"these runs do not belong together: {key} is {first.settings[key]!r} in one and "
                    f"{run.settings[key]!r} in another"
                )
    if not others:
        return first
    prefixes = _prefixes(runs)
    cases: dict[str, dict[str, Any]] = {}
    rows: list[Row] = []
    rounds: dict[str, int] = {}  # of each workload so far
    for run, prefix in zip(runs, prefixes, strict=True):
        offset = rounds.get(prefix, 0)
        rounds[prefix] = offset + 1 + max((row.round for row in run.rows), default=-1)
        for case in run.cases:
            group = None if case["group"] is None else prefix + case["group"]
            cases[prefix + case["id"]] = {**case, "id": prefix + case["id"], "group": group}
        rows += [replace(row, case=prefix + row.case, round=offset + row.round) for row in run.rows]
    return Run(
        rows=rows,
        cases=list(cases.values()),
        durations_s=_sums([run.durations_s for run in runs]),
        settings=first.settings
        | {
            "workload": " and ".join(dict.fromkeys(str(run.settings["workload"]) for run in runs)),
            "rounds": max(rounds.values()),
        },
        about=first.about
        | {
            "command": "; ".join(dict.fromkeys(str(run.about["command"]) for run in runs)),
            "date": ", ".join(dict.fromkeys(str(run.about["date"]) for run in runs)),
            "machine": ", ".join(dict.fromkeys(str(run.about["machine"]) for run in runs)),
        },
        notes=list(dict.fromkeys(note for run in runs for note in run.notes)),
        planned=sum(run.planned for run in runs),
        interrupted=any(run.interrupted for run in runs),
    )


def _prefixes(runs: Sequence[Run]) -> list[str]:
    """Return what tells the cases of runs apart: equal where the same id is the same case."""
    told = [(str(run.settings["workload"]), str(run.settings["seed"])) for run in runs]
    if len(set(told)) == 1:
        return [""] * len(runs)
    seeds = {workload: len({seed for w, seed in told if w == workload}) for workload, _ in told}
    return [f"{workload}/" if seeds[workload] == 1 else f"{workload}#{seed}/" for workload, seed in told]


def _sums(durations: Sequence[Mapping[Side, float]]) -> dict[Side, float]:
    if not all(durations):
        return {}
    return {side: sum(each[side] for each in durations) for side in SIDES}
