"""Sentence relevance on the test documents of ten question sets: baselines and labelers, one run.

    python benchmarks/provence/run.py --quick
    python benchmarks/provence/run.py --methods bm25,minilm,provence@FOLDER --sets qed,selqa --sample 50

Sets come from the folder in TOKENPRUNE_DATA (or --data); benchmarks/common/scorers.py says what a method may
be. Results per (method, question) are kept in OUT/cache, so a run that was stopped goes on where it was;
OUT/report.json and OUT/report.html hold the last result. The test fold is that of tokenprune.training.sets.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)  # not this folder: its modules are benchmarks.provence.*
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from benchmarks.common import command  # noqa: E402
from benchmarks.common.command import words  # noqa: E402
from benchmarks.common.scorers import BASELINES  # noqa: E402
from tokenprune.training.sets import SENTENCE_SETS  # noqa: E402

SECTIONS = ("sentences",)
QUICK = {"sample": 8}


def parser() -> argparse.ArgumentParser:
    made = command.parser(__doc__, Path(__file__).resolve().parent, SECTIONS)
    made.add_argument("--methods", type=words, default=[*BASELINES, "provence"])
    made.add_argument("--sets", type=words, default=list(SENTENCE_SETS))
    made.add_argument("--sample", type=int, default=150, help="questions per set")
    made.add_argument(
        "--strict",
        action="store_true",
        help="without questions whose evidence is quoted in the training folds",
    )
    made.add_argument("--share", type=float, default=0.3, help="of the words, for evidence recall")
    return made


def main(argv: list[str] | None = None) -> None:
    known = {"sections": SECTIONS, "sets": SENTENCE_SETS}
    options = command.options_of(parser(), argv, QUICK, "sentqa", known)
    command.run("benchmarks.provence", argv, options, SECTIONS)


if __name__ == "__main__":
    main()
