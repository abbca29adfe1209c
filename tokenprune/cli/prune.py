"""``tokenprune prune``: one document from a file or a pipe."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from typing import Annotated

import typer

from tokenprune.cli import one_document as one


class OutputFormat(StrEnum):
    """What is written to standard output."""

    text = "text"
    json = "json"


def prune(
    file: one.File,
    query: one.Query = "",
    method: one.Method = None,
    max_tokens: one.MaxTokens = None,
    keep_ratio: one.KeepRatio = None,
    threshold: one.Threshold = None,
    kind: one.Kind = None,
    output: one.Output = None,
    format: Annotated[OutputFormat, typer.Option(help="text, or json with receipts.")] = OutputFormat.text,
    config: one.ConfigFile = None,
    tokenizer: one.Tokenizer = None,
) -> None:
    """Prune a document for a question.

    \b
    Examples:
      tokenprune prune --query "How do I open a file?" --max-tokens 512 page.html
      tokenprune prune -q "Which modes are there?" --keep-ratio 0.2 --output markdown page.html
      cat notes.txt | tokenprune prune -q "Who wrote it?" -m bm25-sentences --format json -
    """
    options = (query, method, max_tokens, keep_ratio, threshold, kind, output, config, tokenizer)
    result = one.Pruning(*options)(file)
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
