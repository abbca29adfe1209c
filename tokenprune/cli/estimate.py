"""``tokenprune estimate``: what pruning would save on a log of requests, without an LLM."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from tokenprune.bench.savings import Prefill
    from tokenprune.models.progress import Reporter

_SHOWN_LINES = 20  # numbers of bad lines that are named


class EstimateFormat(StrEnum):
    """What is written to standard output."""

    text = "text"
    json = "json"


def estimate(
    log: Annotated[Path, typer.Argument(metavar="LOG.jsonl", help="One request a line.", show_default=False)],
    method: Annotated[
        str | None, typer.Option("--method", "-m", help="A method or pipeline; default: as configured.")
    ] = None,
    config: Annotated[str | None, typer.Option(help="YAML file, as the proxy takes it.")] = None,
    keep_ratio: Annotated[
        float | None, typer.Option(min=0, max=1, help="Keep at most this share of the context.")
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=0, help="Keep at most this many tokens of context.")
    ] = None,
    prefill_rate: Annotated[
        float | None, typer.Option(metavar="TOK/S", help="Measured prefill speed of your server.")
    ] = None,
    model_config: Annotated[
        str | None, typer.Option(help="config.json of the model, to predict prefill instead.")
    ] = None,
    hardware: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="With --model-config: a100, h100, l4, rtx4090, cpu-2core."),
    ] = None,
    utilisation: Annotated[
        float | None, typer.Option(help="With --hardware: share of its peak that prefill reaches.")
    ] = None,
    price_in: Annotated[float | None, typer.Option(min=0, help="USD per million prompt tokens.")] = None,
    price_cached: Annotated[
        float | None, typer.Option(min=0, help="USD per million cached prompt tokens; default: the same.")
    ] = None,
    cache_tokens: Annotated[
        int, typer.Option(min=0, help="Tokens that the server's prefix cache holds; 0: it has none.")
    ] = 400_000,
    tokenizer: Annotated[
        str | None, typer.Option(help="Whose tokens are counted: a named model, folder or hub name.")
    ] = None,
    format: Annotated[EstimateFormat, typer.Option(help="text or json.")] = EstimateFormat.text,
) -> None:
    """Prune the requests of a log and say what that would save: tokens, seconds of prefill, money.

    A line is an OpenAI request body, the same in {"request": ...} or {"body": ...}, or {"question",
    "documents"}. A prefix cache is played through, before and after pruning, one request after the other.

    \b
    Examples:
      tokenprune estimate log.jsonl --prefill-rate 8000 --price-in 0.5
      tokenprune estimate log.jsonl -m provence --keep-ratio 0.25 --model-config config.json --hardware a100
      tokenprune estimate log.jsonl --price-in 3 --price-cached 0.3 --format json
    """
    if keep_ratio is not None and max_tokens is not None:
        raise typer.BadParameter("give only one of --keep-ratio and --max-tokens")
    if price_cached is not None and price_in is None:
        raise typer.BadParameter("--price-cached goes with --price-in")
    prefill, assumption = _prefill(prefill_rate, model_config, hardware, utilisation)
    options: dict[str, Any] = {"method": method, "keep_ratio": keep_ratio, "max_tokens": max_tokens}
    report = _run(
        log,
        config,
        tokenizer,
        {name: value for name, value in options.items() if value is not None},
        prefill,
        (price_in, price_cached),
        cache_tokens,
    )
    report["assumptions"] = {
        "prefill": assumption,
        "usd_per_million_tokens": price_in,
        "usd_per_million_cached_tokens": price_in if price_cached is None else price_cached,
        "prefix_cache_tokens": cache_tokens,
    }
    if format is EstimateFormat.json:
        typer.echo(json.dumps(report))
    else:
        _print(report)


def _prefill(
    rate: float | None, model_config: str | None, device: str | None, utilisation: float | None
) -> tuple[Prefill | None, str | None]:
    """Return what predicts seconds, and what to say of it."""
    if (model_config is None) != (device is None):
        raise typer.BadParameter("--model-config and --hardware go together")
    if utilisation is not None and device is None:
        raise typer.BadParameter("--utilisation goes with --hardware")
    if rate is not None and model_config is not None:
        raise typer.BadParameter("give either --prefill-rate or --model-config")
    if rate is not None:
        if not 0 < rate < float("inf"):
            raise typer.BadParameter("--prefill-rate must be above 0")
        return lambda tokens, cached: (tokens - cached) / rate, f"{rate:g} tokens a second"
    if model_config is None or device is None:
        return None, None
    from tokenprune.bench.roofline import hardware, prefill_seconds, read_shape

    shape, known = read_shape(model_config), hardware(device, utilisation)
    size = f"{shape.parameters / 1e6:,.0f} M parameters"
    said = f"roofline of {device} at {known.utilisation:.0%} of its peak, {size}"
    return lambda tokens, cached: prefill_seconds(shape, known, tokens, cached), said


def _run(
    log: Path,
    config: str | None,
    tokenizer: str | None,
    options: dict[str, Any],
    prefill: Prefill | None,
    prices: tuple[float | None, float | None],
    cache_tokens: int,
) -> dict[str, Any]:
    """Prune line by line; what is held does not grow with the log."""
    from tokenprune.bench.prefix_cache import PrefixCache
    from tokenprune.bench.savings import Ledger, Prices, Prompt
    from tokenprune.cli.requests import parse, rewriting
    from tokenprune.config import load_config
    from tokenprune.errors import ConfigError
    from tokenprune.models.progress import reporting
    from tokenprune.tokens import get_counter

    settings = load_config(config, tokenizer)
    if "method" in options:
        settings.build(options["method"])  # a wrong name is no fault of the lines
    rewrite = rewriting(settings, options)
    counter = get_counter(settings.tokenizer)
    caches = PrefixCache(counter, cache_tokens), PrefixCache(counter, cache_tokens)
    ledger = Ledger(prefill, None if prices[0] is None else Prices(prices[0], prices[1]))
    bad: list[int] = []
    count, first = 0, ""
    with reporting("estimate") as reporter:
        for number, raw in _lines(log, reporter):
            try:
                asked = parse(_text(raw))
                found = rewrite(asked)
            except ConfigError as error:
                count += 1
                first = first or f"line {number}: {error}"
                bad = bad if len(bad) == _SHOWN_LINES else [*bad, number]
                continue
            before, after = (
                Prompt(*cache.read(text))
                for cache, text in zip(caches, (found.before, found.after), strict=True)
            )
            ledger.add(asked.kind, before, after, found.decision, found.seconds)
    if not ledger.total.requests:
        raise ConfigError(f"{log} has no request that can be read{f'; {first}' if first else ''}")
    return {**ledger.to_dict(), "bad_lines": {"count": count, "first": bad, "error": first or None}}


def _text(raw: bytes) -> str:
    """A line as text; bytes that are no UTF-8 make a bad line, not the end."""
    from tokenprune.errors import ConfigError

    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"not UTF-8 (byte {error.start})") from None


def _lines(log: Path, reporter: Reporter) -> Iterator[tuple[int, bytes]]:
    """Lines that are not empty, with their numbers, without a byte order mark."""
    from tokenprune.errors import ConfigError

    try:
        with log.open("rb") as file:
            reporter.stage("pruning", log.stat().st_size)
            for number, raw in enumerate(file, 1):
                line = raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw
                if line.strip():
                    yield number, line
                reporter.advance(len(raw))
    except OSError as error:
        raise ConfigError(f"cannot read the log {log}: {error.strerror}") from None


def _both(name: str) -> list[str]:
    return [f"{name} before", f"{name} after"]


def _print(report: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    total = report["total"]
    columns = ["", "requests", "pruned", *_both("tokens"), "saved", *_both("cached")]
    seconds, usd = total["saved_prefill_seconds"] is not None, total["saved_usd"] is not None
    columns += [*_both("prefill s"), "prune s"] if seconds else ["prune s"]
    columns += _both("USD") if usd else []
    shown = Table(box=None, pad_edge=False)
    for n, name in enumerate(columns):
        shown.add_column(name, justify="left" if n == 0 else "right", no_wrap=True)
    for kind, sums in [*report["kinds"].items(), ("total", total)]:
        before, after = sums["before"], sums["after"]
        row = [
            kind,
            f"{sums['requests']:,}",
            f"{sums['decisions'].get('pruned', 0):,}",
            f"{before['tokens']:,}",
            f"{after['tokens']:,}",
            f"{sums['saved_share']:.1%}",
            f"{before['cached']:,}",
            f"{after['cached']:,}",
        ]
        row += [f"{s['prefill_seconds']:,.1f}" for s in (before, after)] if seconds else []
        row += [f"{sums['prune_seconds']:,.1f}"]
        row += [f"{s['usd']:,.4f}" for s in (before, after)] if usd else []
        shown.add_row(*row)
    console = Console()
    Console(width=None if console.is_terminal else 200).print(shown)
    others = {k: n for k, n in total["decisions"].items() if k != "pruned"}
    if others:
        typer.echo("not pruned: " + ", ".join(f"{n} {k}" for k, n in others.items()))
    if seconds:
        typer.echo(
            f"saved {total['saved_prefill_seconds']:,.1f} s of prefill, {total['saved_seconds_net']:,.1f} s "
            f"with the pruning taken off ({report['assumptions']['prefill']})"
        )
    if usd:
        typer.echo(f"saved {total['saved_usd']:,.4f} USD")
    if total["cached_tokens_lost"] > 0:
        lost = f"{total['cached_tokens_lost']:,} tokens"
        typer.echo(f"{lost} that a prefix cache would have held are no longer found there")
    bad = report["bad_lines"]
    if bad["count"]:
        more = " ..." if bad["count"] > len(bad["first"]) else ""
        named = ", ".join(map(str, bad["first"]))
        count = "1 bad line" if bad["count"] == 1 else f"{bad['count']} bad lines ({named}{more})"
        typer.echo(f"{count}; {bad['error']}", err=True)
