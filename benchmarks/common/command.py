"""What the command lines of benchmarks share: options that all have, checks, the report at the end."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.common import sections
from benchmarks.common.context import Context, progress_bar


def words(text: str) -> list[str]:
    return [word for word in text.split(",") if word]


def integers(text: str) -> list[int]:
    return [int(word) for word in words(text)]


def floats(text: str) -> list[float]:
    return [float(word) for word in words(text)]


def parser(doc: str | None, folder: Path, names: Sequence[str]) -> argparse.ArgumentParser:
    """Return a parser with the options of every benchmark; ``folder`` is the benchmark's own."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    default_data = os.environ.get("TOKENPRUNE_DATA")
    made.add_argument("--sections", type=words, default=list(names), help=",".join(names))
    made.add_argument("--data", type=Path, default=Path(default_data) if default_data else None)
    made.add_argument("--out", type=Path, default=folder / "out")
    made.add_argument("--quick", action="store_true", help="small samples; figures are not worth quoting")
    made.add_argument("--fresh", action="store_true", help="forget stored results")
    made.add_argument("--seed", type=int, default=0)
    return made


def options_of(
    made: argparse.ArgumentParser,
    argv: list[str] | None,
    quick: dict[str, Any],
    needs: str,
    known: dict[str, Sequence[str]],
) -> argparse.Namespace:
    """Parse; end with one line where something is unknown or missing, now and not after half an hour.

    Args:
        made: the parser.
        argv: arguments, those of the process when None.
        quick: sizes of a quick run by option.
        needs: the folder that the data folder must hold.
        known: option -> the names it may hold.
    """
    options = made.parse_args(argv)
    sections.shrink(options, made, quick)
    if find_spec("matplotlib") is None:
        made.error("the report needs matplotlib: `make bench-html` installs it and the peers in .venv-bench")
    for option, names in known.items():
        if unknown := [name for name in getattr(options, option) if name not in names]:
            made.error(f"unknown {option}: {', '.join(unknown)}; there are {', '.join(names)}")
    if options.data is not None and not (options.data / needs).is_dir():
        made.error(f"no folder {needs!r} in {options.data}")
    return options


def run(package: str, argv: list[str] | None, options: argparse.Namespace, names: Sequence[str]) -> None:
    """Run the sections asked for and write the report of all that were ever run.

    Args:
        package: of the benchmark: a module for each section, and ``report``.
        argv: arguments, those of the process when None.
        options: as parsed.
        names: of all its sections.
    """
    with progress_bar() as progress:
        for name in options.sections:
            sections.take(Context(options, options.data, progress), package, name)
    # The report draws: what that imports is not part of what the sections measure.
    report = import_module(f"{package}.report")
    found = sections.taken(options.out, names)
    write_report(f"{package.replace('.', '/')}/run.py", argv, found, options.out, report.write)


def write_report(
    script: str,
    argv: list[str] | None,
    found: dict[str, Any],
    out: Path,
    write: Callable[[dict[str, Any], Path], None],
) -> None:
    """Write the report of all sections that were ever run, and say where it is."""
    command = f"python {script} " + shlex.join(argv if argv is not None else sys.argv[1:])
    write(sections.heading(command) | {"sections": found}, out)
    print(f"{out / 'report.html'}\n{out / 'report.json'}")
