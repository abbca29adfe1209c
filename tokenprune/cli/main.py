"""The ``tokenprune`` command."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from tokenprune import __version__
from tokenprune.cli import bench, calibrate, estimate, methods, models, prune, serve, show, vision, weights
from tokenprune.errors import TokenPruneError

app = typer.Typer(
    name="tokenprune",
    help=(
        "Token and context pruning middleware for LLM inference and RAG.\n\n\b\nExamples:\n"
        '  tokenprune prune --query "Who wrote it?" --max-tokens 512 page.html\n'
        "  tokenprune serve --upstream http://localhost:8000\n"
        "  tokenprune bench quality --workload rag-nq20 --out out\n"
        "  tokenprune estimate log.jsonl --price-in 0.5"
    ),
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command("prune")(prune.prune)
app.command("show")(show.show)
app.command("serve")(serve.serve)
app.add_typer(bench.app, name="bench")
app.command("estimate")(estimate.estimate)
app.command("calibrate")(calibrate.calibrate)
app.add_typer(weights.app, name="weights")
app.add_typer(vision.app, name="vision")
app.add_typer(models.app, name="models")
app.command("methods")(methods.methods)


def _version(value: bool) -> None:
    if value:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


def share_cores() -> None:
    """Let threads of torch and numpy hold no cores they do not need, unless the environment says otherwise.

    By default torch's threads spin while they wait for each other. Where a server computes on the same cores,
    they take these from threads with work: pruning behind a prefill of vLLM took four times as long. Asleep
    they cost the engine some 10 % while it writes an answer alone on the machine. What numpy multiplies here
    is small, and waiting for a second thread took a fifth of the time of scoring. Both are read once, when
    the libraries are loaded.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def main() -> None:
    """Run the command line: exit status 0, 1 (failed, reason on stderr) or 2 (usage)."""
    share_cores()
    try:
        app()
    except TokenPruneError as error:
        typer.echo(f"tokenprune: {error}", err=True)
        sys.exit(1)
    except BrokenPipeError:
        sys.exit(1)
