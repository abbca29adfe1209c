"""``tokenprune bench ttft``: the same requests with and without the proxy."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

if TYPE_CHECKING:
    from tokenprune.bench.plan import Cache


def ttft(
    direct: Annotated[
        str, typer.Option(help="URL of an OpenAI-compatible server, with or without /v1.", show_default=False)
    ],
    proxy: Annotated[
        str,
        typer.Option(
            help="URL of the same server through tokenprune; the same URL: direct requests ask not to prune.",
            show_default=False,
        ),
    ],
    workload: Annotated[
        str,
        typer.Option(
            help="A workload (rag-nq20, needle, ...), perhaps with one or several lengths "
            "(rag-nq20:300,1000,2500), or a JSONL file.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path, typer.Option(help="Folder for report.json, report.html and rows.jsonl.", show_default=False)
    ],
    model: Annotated[
        str | None, typer.Option(help="Model to ask for; default: the first that the server lists.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most this many cases.")] = None,
    rounds: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Send every case this often over each route; default: 1, and 2 under load. A proxy that "
            "remembers what it has read prunes a repeated case faster: more cases beat more rounds.",
            show_default=False,
        ),
    ] = None,
    concurrency: Annotated[
        int,
        typer.Option(
            min=1, help="Requests in flight (closed loop); above 1, the routes take turns by round."
        ),
    ] = 1,
    rate: Annotated[
        float | None, typer.Option(help="Requests per second, Poisson arrivals (open loop); routes by turns.")
    ] = None,
    cache: Annotated[
        str,
        typer.Option(
            metavar="cold|warm",
            help="cold: no request finds anything in the prefix cache; warm: a request finds what its own "
            "route sent before it in the same round (--limit then takes whole groups).",
        ),
    ] = "cold",
    warmup: Annotated[int, typer.Option(min=0, help="Requests per route that are not counted.")] = 2,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Tokens of each answer; default: as the case says.")
    ] = None,
    goodput: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME:MS",
            help="Objective of a good request: ttft, tpot or e2el, e.g. ttft:500. Repeatable.",
        ),
    ] = None,
    nll: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL", help="Also ask this local model how much it expects the gold answers (NLL)."
        ),
    ] = None,
    api_key: Annotated[
        str | None,
        typer.Option(envvar=["TOKENPRUNE_API_KEY", "OPENAI_API_KEY"], help="Sent to both servers."),
    ] = None,
    timeout: Annotated[float, typer.Option(help="Seconds for one request.")] = 600.0,
    always: Annotated[
        bool,
        typer.Option(
            "--always",
            help="Send every case a third time, over the proxy and asking for pruning: what do the decisions "
            "not to prune gain or cost?",
        ),
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of order, arrivals and intervals.")] = 0,
) -> None:
    """Measure the time to first token with and without pruning, on the same prompts.

    Every case goes over both routes, one after the other. Ctrl-C ends the run and reports what was measured.

    \b
    Examples:
      tokenprune bench ttft --direct http://localhost:8000 --proxy http://localhost:8080 \\
          --workload rag-nq20 --out report
      tokenprune bench ttft --direct http://localhost:8000 --proxy http://localhost:8080 \\
          --workload rag-nq20:300,500,1000,2500 --out report      (from which length on does it pay?)
      tokenprune bench ttft --direct http://localhost:8000 --proxy http://localhost:8080 \\
          --workload mine.jsonl --out report --rate 2 --goodput ttft:500 --goodput tpot:50
    """
    if rate is not None and concurrency > 1:
        raise typer.BadParameter("give --concurrency (closed loop) or --rate (open loop), not both")
    if rate is not None and not 0 < rate < float("inf"):
        raise typer.BadParameter("--rate must be above 0")
    if cache not in ("cold", "warm"):
        raise typer.BadParameter(f"--cache must be cold or warm, not {cache!r}")
    if not timeout > 0:
        raise typer.BadParameter("--timeout must be above 0")
    from tokenprune.bench.settings import Settings
    from tokenprune.bench.sides import read_goodput
    from tokenprune.errors import MeasureError, MissingExtraError

    try:
        objectives = read_goodput(goodput or [])
    except MeasureError as error:
        raise typer.BadParameter(str(error)) from error
    settings = Settings(
        direct, proxy, workload, out, model, limit, rounds, concurrency, rate, cast("Cache", cache), warmup,
        max_tokens, objectives, seed, timeout, always, nll, api_key,
    )  # fmt: skip
    from rich.console import Console

    try:
        from tokenprune.bench.ttft import run
    except ModuleNotFoundError as error:
        raise MissingExtraError("tokenprune bench", "measure", error.name or "") from error
    run(settings, command_line(sys.argv), Console(), Console(stderr=True))


def command_line(argv: list[str]) -> str:
    """Return the command as it was typed, without the key and the passwords of URLs."""
    shown = ["tokenprune", *(re.sub(r"(https?://)[^/@\s]*@", r"\1...@", word) for word in argv[1:])]
    for i, word in enumerate(shown):
        if word == "--api-key" and i + 1 < len(shown):
            shown[i + 1] = "..."
        elif word.startswith("--api-key="):
            shown[i] = "--api-key=..."
    return shlex.join(shown)
