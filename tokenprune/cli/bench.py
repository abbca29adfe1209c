"""``tokenprune bench``: the commands that measure."""

from __future__ import annotations

import typer

from tokenprune.cli import bench_export, bench_quality, bench_report, bench_ttft

app = typer.Typer(
    no_args_is_help=True,
    help="Measure what pruning does on your data and with your server.\n\n\b\nExamples:\n"
    "  tokenprune bench ttft --direct http://localhost:8000 --proxy http://localhost:8080 "
    "--workload rag-nq20 --out out\n"
    "  tokenprune bench quality --workload rag-nq20 --methods provence,bm25-sentences --budgets 0.1,0.25,512 "
    "--out out\n"
    "  tokenprune bench export --workload rag-nq20 --out rag.jsonl\n"
    "  tokenprune bench report out1 out2 --out both",
)
app.command("ttft")(bench_ttft.ttft)
app.command("quality")(bench_quality.quality)
app.command("report")(bench_report.report)
app.command("export")(bench_export.export)
