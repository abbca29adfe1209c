"""What is left of an answer when tokens of the prompt are left out, and how much sooner it begins.

    OMP_NUM_THREADS=1 python benchmarks/tokens/run.py --sample 10
    OMP_NUM_THREADS=1 python benchmarks/tokens/run.py --sets kv75 --methods gemfilter-q,lazyllm --keep 512

Sections: ``quality`` (all methods on nq20, squad10 and kv75 in our engine: answer kept and given, F1, NLL of
the gold answer, time to the first token with everything counted, peak KV), ``sweep`` (which layer, pooling
and number of tokens of the question-window selection suit nq20; on its validation fold). Sets come from the
folder in TOKENPRUNE_DATA (or --data). With one thread the clock is CPU time. Rows are stored in OUT/cache as
they come, so a run that was stopped goes on where it was.
"""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)  # not this folder: its modules are benchmarks.tokens.*
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from benchmarks.common import command  # noqa: E402
from benchmarks.common.command import integers, words  # noqa: E402
from benchmarks.common.token_methods import HELP, KEEP, MAKERS  # noqa: E402
from benchmarks.tokens.cases import SETS  # noqa: E402

SECTIONS = ("quality", "sweep")
QUICK = {"sample": 1, "sweep_sample": 1, "sets": ["squad10"], "methods": ["random", "gemfilter-q"]}


def parser() -> ArgumentParser:
    made = command.parser(__doc__, Path(__file__).resolve().parent, SECTIONS)
    made.add_argument("--sets", type=words, default=list(SETS), help=",".join(SETS))
    made.add_argument("--methods", type=words, default=list(MAKERS), help=HELP)
    made.add_argument("--sample", type=int, default=10, help="quality: cases per set")
    made.add_argument("--keep", type=int, default=KEEP, help="quality: tokens that selection keeps")
    made.add_argument("--dtype", default="float32", help="of the model")
    made.add_argument("--sweep-sample", type=int, default=20, help="sweep: cases")
    made.add_argument("--keeps", type=integers, default=[128, 256, 512], help="sweep: tokens kept")
    return made


def main(argv: list[str] | None = None) -> None:
    known = {"sections": SECTIONS, "sets": SETS, "methods": tuple(MAKERS)}
    options = command.options_of(parser(), argv, QUICK, "retrieval", known)
    command.run("benchmarks.tokens", argv, options, SECTIONS)


if __name__ == "__main__":
    main()
