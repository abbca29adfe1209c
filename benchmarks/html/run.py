"""HTML pruning compared: ours and the published packages, one run, same pages, same embedding model.

    make bench-html                                   installs the peers beside .venv and runs everything
    python benchmarks/html/run.py --quick             a small run that shows every section works
    python benchmarks/html/run.py --sections evidence --methods hybrid,htmlrag-bm25 --sample 200

Pages and questions come from the folder in TOKENPRUNE_DATA (or --data); without it only `speed` and `scaling`
run. Results per (method, question) are kept in OUT/cache, so a run that was stopped goes on where it was;
ours are measured again when the library's code changed. OUT/report.json and OUT/report.html hold the last
result of every section.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import warnings
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)  # not this folder: its modules are benchmarks.html.*
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from benchmarks.common import command, sections  # noqa: E402
from benchmarks.common.command import floats, integers, words  # noqa: E402
from benchmarks.common.context import progress_bar  # noqa: E402

SECTIONS = ("speed", "evidence", "nll", "generative", "boilerplate", "scaling")
QUICK = {
    "sample": 6,
    "slow_sample": 3,
    "timed": 2,
    "nll_sample": 2,
    "context": 1500,
    "trie_cases": 1,
    "trie_prompt": 128,
    "trie_leaves": 8,
    "boilerplate_sample": 12,
    "scaling_mb": (0.1, 0.3, 1.0),
    "speed_pages": 6,
}


def parser() -> argparse.ArgumentParser:
    from benchmarks.html.methods import DEFAULT_OURS, DEFAULT_PEERS

    made = command.parser(__doc__, Path(__file__).resolve().parent, SECTIONS)
    made.add_argument("--methods", type=words, default=list(DEFAULT_OURS), help="ours, by name")
    made.add_argument("--peers", type=words, default=list(DEFAULT_PEERS))
    made.add_argument("--sample", type=int, default=90, help="questions per set")
    made.add_argument("--slow-sample", type=int, default=36, help="questions per set for slow methods")
    made.add_argument("--slow-methods", type=words, default=["htmlrag-published", "htmlrag"])
    made.add_argument("--budgets", type=integers, default=[2048, 1024, 512, 256])
    made.add_argument("--timed", type=int, default=8, help="pages per set that are timed cold")
    made.add_argument("--rounds", type=int, default=5, help="speed: timed rounds after a warm-up")
    made.add_argument("--speed-pages", type=int, default=16)
    made.add_argument("--nll-sample", type=int, default=20, help="questions of docs and of wikitables")
    made.add_argument("--nll-budget", type=int, default=512)
    made.add_argument(
        "--nll-methods", type=words, default=["hybrid", "htmlrag", "chunks-bm25", "htmlrag-mended"]
    )
    made.add_argument("--context", type=int, default=4000, help="nll: tokens of the whole page")
    made.add_argument(
        "--trie-scorer",
        type=words,
        default=["benchmarks.html.generative:ours"],
        metavar="MODULE:FUNCTION,...",
    )
    made.add_argument("--trie-cases", type=int, default=4)
    made.add_argument("--trie-prompt", type=int, default=512, help="tokens of the page in the prompt")
    made.add_argument("--trie-leaves", type=int, default=24)
    made.add_argument("--boilerplate-methods", type=words, default=["boilerplate"])
    made.add_argument("--boilerplate-sample", type=int, default=1000)
    made.add_argument("--scaling-mb", type=floats, default=[0.1, 0.3, 1.0, 3.0, 10.0])
    return made


def main(argv: list[str] | None = None) -> None:
    options = command.options_of(parser(), argv, QUICK, "html", {"sections": SECTIONS})
    warnings.filterwarnings("ignore")  # of the peers, which would break the progress bar
    logging.getLogger().setLevel(logging.ERROR)
    found = measure(options)
    from benchmarks.html import report

    command.write_report("benchmarks/html/run.py", argv, found, options.out, report.write)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run the sections asked for; return the last result of every section, run now or before."""
    from benchmarks.html import methods
    from benchmarks.html.context import Context

    with progress_bar() as progress:
        context = Context(options, options.data, progress)
        if {"evidence", "nll"} & set(options.sections) and options.data is not None:
            context.methods = methods.available(
                options.methods, options.peers, options.slow_methods, context.note
            )
        shared = list(context.notes)
        for name in options.sections:
            context.notes = list(shared) if name in ("evidence", "nll") else []
            sections.take(context, "benchmarks.html", name)
    return sections.taken(options.out, SECTIONS)


if __name__ == "__main__":
    main()
