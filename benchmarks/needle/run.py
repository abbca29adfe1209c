"""A needle in a haystack: which methods keep the sentence that a question is about, and is it answered?

    OMP_NUM_THREADS=1 python benchmarks/needle/run.py --lengths 1000,2000 --each 2
    OMP_NUM_THREADS=1 python benchmarks/needle/run.py --methods gemfilter-q,provence --keep 512

Haystacks are made of excerpts that ship with the package (benchmarks/needle/haystack.py). OUT/report.html
has the heatmaps, OUT/heatmap.png is the same picture. Rows are stored in OUT/cache as they come, so a run
that was stopped goes on where it was.
"""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)  # not this folder: its modules are benchmarks.needle.*
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from benchmarks.common import command  # noqa: E402
from benchmarks.common.command import floats, integers, words  # noqa: E402
from benchmarks.common.token_methods import HELP, KEEP, MAKERS  # noqa: E402

SECTIONS = ("grid",)
QUICK = {"lengths": [500], "depths": [0.5], "each": 1, "methods": ["random", "gemfilter-q"]}


def parser() -> ArgumentParser:
    made = command.parser(__doc__, Path(__file__).resolve().parent, SECTIONS)
    made.add_argument("--lengths", type=integers, default=[1000, 2000, 4000, 7000], help="tokens of prompts")
    made.add_argument("--depths", type=floats, default=[0.05, 0.25, 0.5, 0.75, 0.95])
    made.add_argument("--each", type=int, default=1, help="cases per length and depth")
    made.add_argument("--methods", type=words, default=list(MAKERS), help=HELP)
    made.add_argument("--keep", type=int, default=KEEP, help="tokens that selection keeps")
    made.add_argument("--dtype", default="float32", help="of the model")
    return made


def main(argv: list[str] | None = None) -> None:
    known = {"sections": SECTIONS, "methods": tuple(MAKERS)}
    options = command.options_of(parser(), argv, QUICK, "", known)
    command.run("benchmarks.needle", argv, options, SECTIONS)


if __name__ == "__main__":
    main()
