"""``tokenprune bench export``: a workload for vLLM's own benchmark client."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def export(
    workload: Annotated[
        str,
        typer.Option(
            help="A workload (rag-nq20, rag-nq20:4000, rag-nq20:500,2500, ...) or a JSONL file.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path, typer.Option(help="File to write; its name must end in .jsonl.", show_default=False)
    ],
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many cases.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Orders items and passages.")] = 0,
) -> None:
    """Write a workload in vLLM's custom dataset format: one JSON a line, prompt and output_tokens.

    Then run vLLM's client with --dataset-name custom --dataset-path FILE --skip-chat-template
    --custom-output-len -1 and --backend openai-chat, once against the server and once against the proxy.

    \b
    Examples:
      tokenprune bench export --workload rag-nq20 --out rag.jsonl
      tokenprune bench export --workload rag-nq20:4000 --limit 20 --out rag4000.jsonl
    """
    from tokenprune.bench.export import write_vllm
    from tokenprune.bench.workloads import load

    count = write_vllm(load(workload, limit, seed), out)
    typer.echo(f"{count} prompts -> {out}", err=True)
