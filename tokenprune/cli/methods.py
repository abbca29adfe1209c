"""``tokenprune methods``: what there is to choose from."""

from __future__ import annotations

import typer


def methods() -> None:
    """List every pruning method, one line each, with the paper it comes from.

    \b
    Example:
      tokenprune methods
    """
    from tokenprune.registry import list_pruners

    found = list_pruners()
    width = max(len(info.name) for info in found)
    for info in found:
        needs = f"; needs {', '.join(info.models)}" if info.models else ""
        typer.echo(f"{info.name:<{width}}  {info.summary} [{info.paper}{needs}]")
