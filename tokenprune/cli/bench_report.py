"""``tokenprune bench report``: the report of a run made again, or one of several runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    folders: Annotated[
        list[Path],
        typer.Argument(help="Folders of `tokenprune bench ttft` (its --out).", show_default=False),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for report.json and report.html; default: that of the only run."),
    ] = None,
) -> None:
    """Make report.json and report.html from the rows of a run, without any request.

    Several runs against the same servers and model become one report: other workloads, lengths or seeds, or
    the same again, which counts as further rounds.

    \b
    Examples:
      tokenprune bench report out
      tokenprune bench report out500 out2500 --out both
    """
    if out is None and len(folders) > 1:
        raise typer.BadParameter("name the folder of the common report: --out DIR")
    from rich.console import Console

    from tokenprune.errors import MissingExtraError

    try:
        from tokenprune.bench.ttft import show
    except ModuleNotFoundError as error:
        raise MissingExtraError("tokenprune bench", "measure", error.name or "") from error
    show(folders, folders[0] if out is None else out, Console())
