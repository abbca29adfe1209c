"""``tokenprune bench quality``: what each method keeps of a workload, under each budget, without a server."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Callable

    from tokenprune.bench.tradeoff import Item, Tradeoff
    from tokenprune.budget import Budget
    from tokenprune.pipeline import Pipeline

_WIDTH = 80  # that every terminal has
_METHODS = "default,none,tail,middle-out,random,bm25-passages,bm25-sentences"


def quality(
    workload: Annotated[
        str,
        typer.Option(
            help="A workload (rag-nq20, rag-nq20:4000, rag-nq20:500,2500, ...) or a JSONL file.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for report.json and report.html.", show_default=False)],
    methods: Annotated[
        str,
        typer.Option(help="Methods (`tokenprune methods`) or pipelines of --config, with commas between."),
    ] = _METHODS,
    budgets: Annotated[
        str,
        typer.Option(help="Shares (0.25), tokens (512) or adaptive, with commas between."),
    ] = "0.1,0.25,0.5",
    nll: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Score the gold answers with this small model (smollm2-135m)."),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many cases.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Orders items and passages.")] = 0,
    config: Annotated[str | None, typer.Option(help="YAML file with pipelines and the tokenizer.")] = None,
    model_config: Annotated[
        str | None, typer.Option(help="config.json of a served model: predict its prefill seconds.")
    ] = None,
    hardware: Annotated[str, typer.Option(help="With --model-config: the device.")] = "a100",
) -> None:
    """Compare methods and budgets on a workload: tokens kept, evidence kept, the gold answer's likelihood.

    The full context is always measured too. Choices that nothing beats are marked with a star.

    \b
    Examples:
      tokenprune bench quality --workload rag-nq20 --methods provence,random --budgets 0.1,0.25,512 --out out
      tokenprune bench quality --workload mine.jsonl --budgets 512,1024,adaptive --nll smollm2-135m --out out
    """
    from tokenprune.bench.folder import made
    from tokenprune.bench.tradeoff import FULL, measure
    from tokenprune.config import load_config
    from tokenprune.errors import ConfigError
    from tokenprune.models.progress import reporting

    settings = load_config(config)
    names = [name for given in methods.split(",") if (name := given.strip())]
    if FULL in names and FULL in settings.pipelines:
        raise ConfigError(
            f"{FULL!r} is the row of the whole context, so a pipeline of this name cannot be told from it: "
            f"call the pipeline of {config or 'the configuration'} something else"
        )
    names = [name for name in names if name != FULL]
    pipelines: dict[str, Pipeline] = {name: settings.build(name) for name in names}
    asked = _budgets(budgets)
    predict = None if model_config is None else _prediction(model_config, hardware)
    items = _items(workload, limit, seed)
    made(out)  # before any work
    lm = None
    if nll is not None:
        from tokenprune.models.causal_lm import load_causal_lm

        lm = load_causal_lm(nll)
    with reporting("bench quality") as reporter:
        result = measure(items, pipelines, asked, lm, predict, reporter)
    about = {
        "workload": workload,
        "cases": len(items),
        "tokenizer": settings.tokenizer,
        "nll_model": nll or "",
        "prefill": "" if model_config is None else f"{model_config} on {hardware}",
    }
    _finish(result, about, out)


def _budgets(given: str) -> list[tuple[str, Budget]]:
    from tokenprune.bench.tradeoff import parse_budget
    from tokenprune.errors import ConfigError

    try:
        asked = [parse_budget(text) for text in given.split(",") if text.strip()]
    except ConfigError as error:
        raise typer.BadParameter(f"--budgets {given}: {error}") from None
    if not asked:
        raise typer.BadParameter("--budgets names no budget")
    return asked


def _prediction(model_config: str, device: str) -> Callable[[int], float]:
    from tokenprune.bench.roofline import hardware, prefill_seconds, read_shape

    shape, known = read_shape(model_config), hardware(device)
    return lambda tokens: prefill_seconds(shape, known, tokens)


def _items(workload: str, limit: int | None, seed: int) -> list[Item]:
    """Cases with their documents; those of plain messages are found as the proxy finds them."""
    from tokenprune.bench.tradeoff import Item
    from tokenprune.bench.workloads import sources
    from tokenprune.cli.requests import documents_of

    items = []
    for source in sources(workload, limit, seed):
        case = source.case()
        items.append(Item(case, source.documents or documents_of(case.messages)))
    return items


def _finish(result: Tradeoff, about: dict[str, object], out: Path) -> None:
    import time

    from rich.console import Console
    from rich.table import Table

    from tokenprune.bench.machine import machine
    from tokenprune.bench.tradeoff_report import HEAD, cells, narrow_columns, used_columns, write

    heading = {
        "machine": machine(),
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "command": f"tokenprune {shlex.join(sys.argv[1:])}",
    }
    paths = write(result, heading | about, out)
    console = Console()
    # Piped, a table has no terminal to fit, and no row may be folded.
    piped = not console.is_terminal
    shown = Table(box=None, pad_edge=False)
    columns = narrow_columns(result.rows, _WIDTH if piped else max(_WIDTH, console.width))
    for n in columns:
        shown.add_column(HEAD[n], justify="left" if n == 0 else "right", no_wrap=True)
    for row in result.rows:
        shown.add_row(*(cells(row)[n] for n in columns))
    Console(width=160 if piped else None).print(shown)
    if columns != used_columns(result.rows):
        typer.echo("(95 % intervals: in the reports)")
    best = ", ".join(row.label for row in result.rows if row.pareto)
    typer.echo(f"\n* nothing beats: {best or '(nothing to compare)'}")
    typer.echo(f"recommended: {result.recommended or '(none)'}. {result.rule}")
    typer.echo("\n".join(map(str, paths)), err=True)
