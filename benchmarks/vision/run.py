"""What a model still sees when visual tokens are left out, and how much sooner its first token comes.

    OMP_NUM_THREADS=1 python benchmarks/vision/run.py --pictures 100 --videos 60
    OMP_NUM_THREADS=1 python benchmarks/vision/run.py --sections ttft --ttft-keep 0.25

Sections: ``accuracy`` (pictures, all methods at several shares of the tokens, by type of question),
``video`` (four frames), ``flops`` (counted for every method), ``ttft`` (our engine: encoder, selection and
prefill, with and without pruning in turn) and ``served`` (a real vLLM and the proxy are started; pixels to
vLLM against pixels to the proxy). The model is llava-mini; in ``served``, and on request in ``ttft``, one of
SmolLM2's size behind a random tower. The scenes are of llava-mini's test split: no data folder is needed.
With one thread the clock is CPU time. Rows are stored in OUT/cache as they come, so a run that was stopped
goes on where it was.

ATP-LLaVA's thresholds are trained for one share of the tokens, those beside llava-mini for 25 %. Others need
modules of their own, which are then measured at the share that comes of them:

    python benchmarks/vision/train.py atp RUN tokenprune/data/llava-mini --target 0.5 --file half.safetensors
    python benchmarks/vision/run.py --sections accuracy --methods atp-llava --atp llava-mini,half.safetensors
"""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)  # not this folder: its modules are benchmarks.vision.*
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from benchmarks.common import command  # noqa: E402
from benchmarks.common.command import floats, words  # noqa: E402
from benchmarks.vision.asking import METHODS, MODEL  # noqa: E402

SECTIONS = ("accuracy", "video", "flops", "ttft", "served")
QUICK = {
    "pictures": 4,
    "videos": 2,
    "examples": 1,
    "ttft_rounds": 1,
    "served_rounds": 1,
    "methods": ["uniform", "visionzip"],
}


def parser() -> ArgumentParser:
    made = command.parser(__doc__, Path(__file__).resolve().parent, SECTIONS)
    made.add_argument("--methods", type=words, default=list(METHODS), help=", ".join(METHODS))
    made.add_argument(
        "--atp",
        type=words,
        default=[MODEL],
        help="modules for atp-llava, models or files of `train.py atp`: each has learned its own share",
    )
    made.add_argument("--pictures", type=int, default=100, help="accuracy: of five questions each")
    made.add_argument("--keeps", type=floats, default=[0.5, 0.25, 0.11, 0.05], help="accuracy: shares kept")
    made.add_argument("--examples", type=int, default=3, help="accuracy: pictures drawn")
    made.add_argument("--example-keep", type=float, default=0.25, help="accuracy: share kept in them")
    made.add_argument("--videos", type=int, default=60, help="video: of five questions each")
    made.add_argument("--video-keeps", type=floats, default=[0.5, 0.25, 0.15, 0.1], help="video: shares kept")
    made.add_argument("--flop-keeps", type=floats, default=[0.25, 0.15], help="flops: shares kept")
    made.add_argument("--ttft-methods", type=words, default=["fopru rank", "visionzip", "holitom", "fastv"])
    made.add_argument("--ttft-keep", type=float, default=0.25, help="ttft: share kept")
    made.add_argument("--ttft-frames", type=int, default=8, help="ttft: of 196 tokens each")
    made.add_argument("--ttft-rounds", type=int, default=9, help="ttft: pairs")
    made.add_argument("--ttft-model", choices=("llava-mini", "llava-smol"), default="llava-mini")
    made.add_argument("--served-method", default="fopru", help="served: works before the language model")
    made.add_argument("--served-rounds", type=int, default=7, help="served: videos")
    return made


def main(argv: list[str] | None = None) -> None:
    known = {"sections": SECTIONS, "methods": tuple(METHODS), "ttft_methods": tuple(METHODS)}
    options = command.options_of(parser(), argv, QUICK, "", known)
    command.run("benchmarks.vision", argv, options, SECTIONS)


if __name__ == "__main__":
    main()
