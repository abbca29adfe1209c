"""``tokenprune models``: the named small models and where they are on this disk."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(
    no_args_is_help=True,
    help="The named small models. Wherever a model is asked for, a local folder or a hub id works too.\n\n"
    "Example: tokenprune models list",
)


@app.command("list")
def list_command() -> None:
    """List the named models, what each is for, and whether it is on this disk.

    Example: tokenprune models list
    """
    from rich.console import Console
    from rich.table import Table

    from tokenprune.models.catalog import NamedModel, is_cached, list_models

    table = Table(box=None, pad_edge=False)
    for heading in ("name", "task", "download", "cached", "licence", "description"):
        table.add_column(heading, no_wrap=heading != "description")
    for model in list_models():
        cached = "yes" if is_cached(model.name) else "no"
        size = f"{model.size / 1e6:.0f} MB" if isinstance(model, NamedModel) else "ships"
        table.add_row(model.name, model.task, size, cached, model.licence, model.description)
    Console().print(table)


@app.command("path")
def path_command(
    name: Annotated[
        str, typer.Argument(help="A name that `tokenprune models list` shows.", show_default=False)
    ],
) -> None:
    """Print the local folder of a named model in Hugging Face layout; fetches it the first time.

    Only the folder goes to stdout, progress goes to stderr.

    Example: vllm serve "$(tokenprune models path smollm2-135m)"
    """
    from tokenprune.models.catalog import model_path

    typer.echo(str(model_path(name)))
