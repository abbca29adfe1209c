"""Does a small model still find the answer in what is left of twenty retrieved passages?

    python benchmarks/rag_quality/run.py --quick
    python benchmarks/rag_quality/run.py --methods minilm,provence@FOLDER --threshold 0.1

Sections: ``answers`` (gold-answer NLL and tokens), ``ranking`` (nDCG@5 on nq20 and pubmedqa10), ``sweep``
(compression against evidence kept and NLL). Lists come from the folder in TOKENPRUNE_DATA (or --data), test
fold of tokenprune.training.sets; benchmarks/common/scorers.py says what a method may be. Forwards that were
done are kept in OUT/cache; OUT/report.json and OUT/report.html hold the last result of every section.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)  # not this folder: its modules are benchmarks.rag_quality.*
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from benchmarks.common import sections  # noqa: E402
from benchmarks.common.context import Context, progress_bar  # noqa: E402
from benchmarks.common.scorers import BASELINES  # noqa: E402

SECTIONS = ("answers", "ranking", "sweep")
QUICK = {"sample": 2, "ranked": 6, "sweep_sample": 2, "shares": [0.1, 0.25], "thresholds": [0.1, 0.5]}


def words(text: str) -> list[str]:
    return [word for word in text.split(",") if word]


def numbers(text: str) -> list[float]:
    return [float(word) for word in words(text)]


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default_data = os.environ.get("TOKENPRUNE_DATA")
    made.add_argument("--sections", type=words, default=list(SECTIONS), help=",".join(SECTIONS))
    made.add_argument("--data", type=Path, default=Path(default_data) if default_data else None)
    made.add_argument("--out", type=Path, default=Path(__file__).resolve().parent / "out")
    made.add_argument("--quick", action="store_true", help="small samples; figures are not worth quoting")
    made.add_argument("--fresh", action="store_true", help="forget stored results")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--methods", type=words, default=list(BASELINES))
    made.add_argument("--sample", type=int, default=70, help="answers: lists")
    made.add_argument("--share", type=float, default=0.25, help="answers: of the tokens, for sentences")
    made.add_argument("--threshold", type=float, default=0.1, help="answers: of labelers")
    made.add_argument("--ranked", type=int, default=1000, help="ranking: lists per set")
    made.add_argument("--sweep-sample", type=int, default=40, help="sweep: lists")
    made.add_argument("--shares", type=numbers, default=[0.05, 0.1, 0.15, 0.25, 0.4, 0.6])
    made.add_argument("--thresholds", type=numbers, default=[0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7])
    return made


def main(argv: list[str] | None = None) -> None:
    made = parser()
    options = made.parse_args(argv)
    sections.shrink(options, made, QUICK)
    if find_spec("matplotlib") is None:
        made.error("the report needs matplotlib: `make bench-html` installs it in .venv-bench")
    if unknown := [s for s in options.sections if s not in SECTIONS]:
        made.error(f"unknown section {', '.join(unknown)}; there are {', '.join(SECTIONS)}")
    if options.data is not None and not (options.data / "retrieval").is_dir():
        made.error(f"no folder 'retrieval' in {options.data}")
    with progress_bar() as progress:
        for name in options.sections:
            sections.take(Context(options, options.data, progress), "benchmarks.rag_quality", name)
    from benchmarks.rag_quality import report

    command = "python benchmarks/rag_quality/run.py " + shlex.join(argv if argv is not None else sys.argv[1:])
    found = sections.taken(options.out, SECTIONS)
    report.write(sections.heading(command) | {"sections": found}, options.out)
    print(f"{options.out / 'report.html'}\n{options.out / 'report.json'}")


if __name__ == "__main__":
    main()
