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
import shlex
import sys
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)  # not this folder: its modules are benchmarks.provence.*
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from benchmarks.common import sections  # noqa: E402
from benchmarks.common.context import Context, progress_bar  # noqa: E402
from benchmarks.common.scorers import BASELINES  # noqa: E402
from tokenprune.training.sets import SENTENCE_SETS  # noqa: E402

SECTIONS = ("sentences",)
QUICK = {"sample": 8}


def words(text: str) -> list[str]:
    return [word for word in text.split(",") if word]


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
    made.add_argument("--sets", type=words, default=list(SENTENCE_SETS))
    made.add_argument("--sample", type=int, default=150, help="questions per set")
    made.add_argument("--share", type=float, default=0.3, help="of the words, for evidence recall")
    return made


def main(argv: list[str] | None = None) -> None:
    made = parser()
    options = made.parse_args(argv)
    sections.shrink(options, made, QUICK)
    if find_spec("matplotlib") is None:
        made.error("the report needs matplotlib: `make bench-html` installs it in .venv-bench")
    for given, known in ((options.sections, SECTIONS), (options.sets, SENTENCE_SETS)):
        if unknown := [s for s in given if s not in known]:
            made.error(f"unknown: {', '.join(unknown)}; there are {', '.join(known)}")
    if options.data is not None and not (options.data / "sentqa").is_dir():
        made.error(f"no folder 'sentqa' in {options.data}")
    with progress_bar() as progress:
        for name in options.sections:
            sections.take(Context(options, options.data, progress), "benchmarks.provence", name)
    from benchmarks.provence import report

    command = "python benchmarks/provence/run.py " + shlex.join(argv if argv is not None else sys.argv[1:])
    found = sections.taken(options.out, SECTIONS)
    report.write(sections.heading(command) | {"sections": found}, options.out)
    print(f"{options.out / 'report.html'}\n{options.out / 'report.json'}")


if __name__ == "__main__":
    main()
