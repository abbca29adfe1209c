"""Every method and every package that installs, on the same requests, budgets, tokenizer and small model.

    python benchmarks/rag_peers/run.py --limit 8 --out out
    python benchmarks/rag_peers/run.py --workloads rag-nq20 --methods provence,bm25-passages --budgets 256,512

Two workloads of `tokenprune bench`: rag-nq20 (a question and 20 passages) and rag-html (a question and a
page). Retrieved passages are pruned by ours, by whole-passage retrievers (BM25, MiniLM: the best first until
the budget, the beginning of the next fills it up) and by plain cuts; pages also by PyPI htmlrag as published
and with its early break removed, by trafilatura's extraction cut to the budget, and by 100-word chunks of
plain text (BM25, MiniLM). Measured: tokens kept, evidence kept, time of pruning, and the gold answer's NLL
under SmolLM2-135M (--nll "" leaves it out). Seconds are those of the first budget of each method.

OUT/WORKLOAD/report.html and report.json as `tokenprune bench quality` writes them, OUT/peers.md the tables.
What is compared with other packages lives in .venv-bench (`make bench-html` makes it); what is not installed
there is skipped and named.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)  # not this folder: its modules are benchmarks.rag_peers.*
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from benchmarks.common.command import words  # noqa: E402
from tokenprune.bench.machine import machine  # noqa: E402
from tokenprune.bench.tradeoff import Item, Tradeoff, measure, parse_budget  # noqa: E402
from tokenprune.bench.tradeoff_report import markdown, write  # noqa: E402
from tokenprune.bench.workloads import sources  # noqa: E402
from tokenprune.errors import TokenPruneError  # noqa: E402
from tokenprune.tokens import DEFAULT_TOKENIZER  # noqa: E402

PLAIN = ("none", "tail", "middle-out", "random")
OURS = {
    "rag-nq20": (
        "provence",
        "hybrid",
        "bm25-sentences",
        "embed-sentences",
        "bm25-passages",
        "embed-passages",
    ),
    "rag-html": ("hybrid", "htmlrag-embed", "htmlrag-bm25", "provence"),
}
NAMES = {"none": "head cut (`none`)"}


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--workloads", type=words, default=list(OURS), help="names, or NAME:TOKENS")
    made.add_argument("--methods", type=words, help="ours, by name; default: a choice for each workload")
    made.add_argument("--peers", type=words, help="packages for pages, by name; default: all")
    made.add_argument("--budgets", type=words, default=["256", "512", "1024"])
    made.add_argument("--nll", default="smollm2-135m", help="model that scores the gold answers, '' for none")
    made.add_argument("--limit", type=int, help="requests of each workload")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--out", type=Path, default=Path(__file__).resolve().parent / "out")
    return made


def run(workload: str, options: argparse.Namespace, command: str) -> tuple[Tradeoff, dict[str, Any]]:
    """Measure one workload and write its report."""
    from benchmarks.rag_peers.methods import PAGES, Peer, methods
    from tokenprune.models.causal_lm import load_causal_lm
    from tokenprune.models.progress import reporting

    items = [Item(s.case(), s.documents) for s in sources(workload, options.limit, options.seed)]
    of_pages = any(document.kind == "html" for item in items for document in item.documents)
    own = options.methods
    if own is None:
        own = [*OURS["rag-html" if of_pages else "rag-nq20"], *PLAIN]
    asked = list(PAGES) if options.peers is None else options.peers
    asked = asked if of_pages else []  # all of them read HTML
    notes: list[str] = []
    chosen = methods(own, asked, DEFAULT_TOKENIZER, notes.append)
    budgets = [parse_budget(text) for text in options.budgets]
    lm = load_causal_lm(options.nll) if options.nll else None
    with reporting(workload) as reporter:
        result = measure(items, chosen, budgets, lm, reporter=reporter)
    for name, method in chosen.items():
        if isinstance(method, Peer) and method.failures:
            notes.append(f"{name} raised {len(method.failures)} times, e.g. {method.failures[0]}")
    about = {
        "machine": machine(),
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "command": command,
        "workload": workload,
        "cases": len(items),
        "tokenizer": DEFAULT_TOKENIZER,
        "nll_model": options.nll,
        "notes": "; ".join(notes),
    }
    write(result, about, options.out / workload.replace(":", "-"))
    return result, about


def section(result: Tradeoff, about: dict[str, Any]) -> str:
    """One workload as Markdown."""
    lines = [f"## {about['workload']}, {about['cases']} requests", "", markdown(result, NAMES), ""]
    lines += [f"- {note}" for note in about["notes"].split("; ") if note]
    return "\n".join(lines).rstrip() + "\n"


def main(argv: list[str] | None = None) -> None:
    made = parser()
    options = made.parse_args(argv)
    given = argv if argv is not None else sys.argv[1:]
    command = f"python benchmarks/rag_peers/run.py {shlex.join(given)}".strip()
    text = ""
    for workload in options.workloads:
        try:
            result, about = run(workload, options, command)
        except TokenPruneError as error:
            made.error(str(error))
        text = text or f"{about['machine']}; {about['date']}; `{command}`\n"
        text += "\n" + section(result, about)
        (options.out / "peers.md").write_text(text, encoding="utf-8")  # a run that is stopped keeps this much
    print(text)


if __name__ == "__main__":
    main()
