"""Does a small model still find the answer in what is left of twenty retrieved passages?

    python benchmarks/rag_quality/run.py --quick
    python benchmarks/rag_quality/run.py --methods minilm,provence@FOLDER --threshold 0.1

Sections: ``answers`` (gold-answer NLL and tokens), ``ranking`` (nDCG@5 on nq20 and pubmedqa10), ``sweep``
(compression against evidence kept and NLL), ``cost`` (time of pruning beside the time to first token of the
server at --upstream), ``formats`` (seconds of torch and of ONNX Runtime). Lists come from the folder in
TOKENPRUNE_DATA (or --data), test fold of tokenprune.training.sets; benchmarks/common/scorers.py says what a
method may be. Forwards that were done are kept in OUT/cache; OUT/report.json and OUT/report.html hold the
last result of every section.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)  # not this folder: its modules are benchmarks.rag_quality.*
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from benchmarks.common import command  # noqa: E402
from benchmarks.common.command import floats, words  # noqa: E402
from benchmarks.common.scorers import BASELINES  # noqa: E402

SECTIONS = ("answers", "ranking", "sweep", "cost", "formats")
QUICK = {
    "sample": 2,
    "ranked": 6,
    "sweep_sample": 2,
    "timed": 2,
    "formats_sample": 1,
    "rounds": 1,
    "shares": [0.1, 0.25],
    "thresholds": [0.1, 0.5],
}


def parser() -> argparse.ArgumentParser:
    made = command.parser(__doc__, Path(__file__).resolve().parent, SECTIONS)
    made.add_argument("--methods", type=words, default=[*BASELINES, "provence"])
    made.add_argument("--sample", type=int, default=70, help="answers: lists")
    made.add_argument("--share", type=float, default=0.25, help="answers: of the tokens, for sentences")
    made.add_argument("--threshold", type=float, default=0.04, help="answers: of labelers")
    made.add_argument("--ranked", type=int, default=1000, help="ranking: lists per set")
    made.add_argument("--sweep-sample", type=int, default=40, help="sweep: lists")
    made.add_argument("--upstream", help="cost: URL of an OpenAI-compatible server on this machine")
    made.add_argument("--timed", type=int, default=20, help="cost: lists")
    made.add_argument("--formats-sample", type=int, default=6, help="formats: lists")
    made.add_argument("--rounds", type=int, default=7, help="formats: of each list")
    made.add_argument("--shares", type=floats, default=[0.05, 0.1, 0.15, 0.25, 0.4, 0.6])
    made.add_argument("--thresholds", type=floats, default=[0.02, 0.04, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7])
    return made


def main(argv: list[str] | None = None) -> None:
    options = command.options_of(parser(), argv, QUICK, "retrieval", {"sections": SECTIONS})
    command.run("benchmarks.rag_quality", argv, options, SECTIONS)


if __name__ == "__main__":
    main()
