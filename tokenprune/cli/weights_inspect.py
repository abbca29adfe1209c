"""``tokenprune weights inspect``: what was removed from a model, per layer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def inspect(
    folder: Annotated[Path, typer.Argument(help="A folder that `weights prune` wrote.", show_default=False)],
    picture: Annotated[
        Path | None, typer.Option(help="Draw it to this file as well (.png, .svg or .pdf).")
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print the pruning card as JSON instead.")] = False,
) -> None:
    """Show what was removed from each layer of a pruned model, and what that saves.

    Example: tokenprune weights inspect smollm2-flap --picture flap.png
    """
    from tokenprune.weights.card import read_card
    from tokenprune.weights.inspect import picture as draw
    from tokenprune.weights.inspect import report

    if json_:
        typer.echo(read_card(folder).model_dump_json())
    else:
        from rich.console import Console

        Console().print(report(folder))
    if picture is not None:
        typer.echo(f"drawn to {draw(folder, picture)}", err=True)
