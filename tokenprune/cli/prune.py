"""``tokenprune prune``: one document from a file or a pipe."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer


class OutputFormat(StrEnum):
    """What is written to standard output."""

    html = "html"
    text = "text"
    json = "json"


class OutputForm(StrEnum):
    """What HTML becomes; see `tokenprune.render.OUTPUTS`."""

    same = "same"
    html = "html"
    text = "text"
    markdown = "markdown"


class DocumentKind(StrEnum):
    """What the input is; see `tokenprune.document.KINDS`."""

    html = "html"
    text = "text"
    triples = "triples"
    examples = "examples"
    chat = "chat"


def prune(
    file: Annotated[str, typer.Argument(metavar="FILE|-", help="What to prune; - reads standard input.")],
    query: Annotated[str, typer.Option("--query", "-q", help="The question the result must answer.")] = "",
    method: Annotated[
        str | None,
        typer.Option(
            "--method",
            "-m",
            help="A method (`tokenprune methods`) or pipeline; default: provence for texts, else hybrid.",
        ),
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Keep at most this many tokens.")] = None,
    keep_ratio: Annotated[float | None, typer.Option(help="Keep at most this share of the tokens.")] = None,
    threshold: Annotated[float | None, typer.Option(help="Keep what scores at least this much.")] = None,
    kind: Annotated[DocumentKind | None, typer.Option(help="What the input is; default: look.")] = None,
    output: Annotated[
        OutputForm | None,
        typer.Option(help="What HTML becomes: same (stays HTML), text or markdown; default: as configured."),
    ] = None,
    format: Annotated[OutputFormat, typer.Option(help="text, or json with receipts.")] = OutputFormat.text,
    config: Annotated[str | None, typer.Option(help="YAML file with pipelines; --method names one.")] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="Whose tokens are counted: a named model, folder or hub name.")
    ] = None,
) -> None:
    """Prune a document for a question.

    \b
    Examples:
      tokenprune prune --query "How do I open a file?" --max-tokens 512 page.html
      tokenprune prune -q "Which modes are there?" --keep-ratio 0.2 --output markdown page.html
      cat notes.txt | tokenprune prune -q "Who wrote it?" -m bm25-sentences --format json -
    """
    given = [o for o, v in (("--max-tokens", max_tokens), ("--keep-ratio", keep_ratio)) if v is not None]
    if len(given) > 1 or (given and threshold is not None):
        raise typer.BadParameter("give only one of --max-tokens, --keep-ratio and --threshold")
    from tokenprune.budget import Budget
    from tokenprune.config import with_output
    from tokenprune.document import Document

    document = Document.from_bytes(_read(file), kind=None if kind is None else kind.value)
    pipeline = _pipeline(method, threshold, config, tokenizer, str(document.kind))
    if output is not None:
        pipeline = with_output(pipeline, output.value)
    budget = Budget(max_tokens, keep_ratio) if given else None
    result = pipeline.prune(query, [document], budget)
    if format is OutputFormat.json:
        json.dump(result.to_dict(), sys.stdout, ensure_ascii=True)
        sys.stdout.write("\n")
    else:
        sys.stdout.buffer.write(result.documents[0].text.encode("utf-8", "surrogatepass"))
        sys.stdout.buffer.flush()
        if sys.stderr.isatty():
            typer.echo(
                f"\n{result.tokens_before} -> {result.tokens_after} tokens in {result.seconds * 1e3:.0f} ms",
                err=True,
            )


def _read(file: str) -> bytes:
    if file == "-":
        return sys.stdin.buffer.read()
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise typer.BadParameter(f"cannot read {file}: {error.strerror}") from None


def _pipeline(
    method: str | None, threshold: float | None, config: str | None, tokenizer: str | None, kind: str
) -> Any:
    from tokenprune.config import load_config
    from tokenprune.errors import ConfigError
    from tokenprune.pipeline import Pipeline
    from tokenprune.registry import pruner

    settings = load_config(config, tokenizer)
    if threshold is None:
        return settings.build(method or "default")
    if method is None:
        matching = [p for p in settings.build("default").pruners if kind in p.kinds]
        method = matching[-1].name if matching else "none"
    if method in settings.pipelines:
        raise ConfigError(f"--threshold goes with a method, and {method!r} is a configured pipeline")
    return Pipeline([pruner(method, threshold=threshold)], tokenizer=settings.tokenizer)
