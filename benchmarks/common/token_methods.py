"""The methods that choose prompt tokens, by the names that benchmarks know them under."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from zlib import crc32

import numpy as np

from benchmarks.common.reading import Method
from tokenprune.engine.decoder import Check, Decoder
from tokenprune.engine.methods.gemfilter import GemFilter, QuestionGemFilter, Selected, read_selected
from tokenprune.engine.methods.lazyllm import LazyLLM
from tokenprune.engine.methods.specprefill import SpecPrefill
from tokenprune.engine.reading import Reading
from tokenprune.engine.schedule import Drop, Marks
from tokenprune.errors import UnknownNameError
from tokenprune.models.causal_lm import load_causal_lm
from tokenprune.pipeline import Pipeline
from tokenprune.registry import pruner

MODEL = "smollm2-135m"
KEEP, NEAR, NARROW = 512, 1024, 0.5
FORTY = (Drop(0.3, 0.4), Drop(0.6, 0.4), Drop(0.9, 0.4))  # 60 % leave, where the paper's 30 % do
# Early layers may say little of where the answer is: few leave there, and most at half of the depth.
LATE = (Drop(0.25, 0.6), Drop(0.5, 0.15))


@dataclass(frozen=True)
class Random:
    """Any tokens, as many as a question-window method keeps, and those that it pins."""

    like: QuestionGemFilter

    def prefill(self, decoder: Decoder, ids: Sequence[int], marks: Marks, check: Check) -> Reading:
        size = len(ids)
        _, pinned = marks.rows(0, size)
        pinned[: self.like.head] = True
        pinned[size - self.like.tail :] = True
        rng = np.random.default_rng(crc32(np.asarray(ids, dtype=np.int64).tobytes()))
        order = np.argsort(rng.random(size) - pinned, kind="stable")
        kept = np.sort(order[: min(size, max(self.like.keep, int(pinned.sum())))])
        return read_selected(decoder, ids, Selected(tuple(kept.tolist())), check)


def _lazy(steps: tuple[Drop, ...]) -> LazyLLM:
    return LazyLLM(steps, question=True, calibrated=True)


def _provence() -> Pipeline:
    # What was read is remembered otherwise, and the second of two methods would have it for nothing.
    return Pipeline([pruner("provence", cache_bytes=0)])


LATE_LAYER = 15  # of the model's 30: twice as dear as the one that ships, keeps more of the answers
# What is not said here, layers, pooling and heads, is as the model is calibrated.
MAKERS: dict[str, Callable[[int], Method]] = {
    "full": lambda keep: Method(),
    "random": lambda keep: Method(Random(QuestionGemFilter(keep=keep))),
    "gemfilter": lambda keep: Method(GemFilter(keep=keep)),
    "gemfilter-q": lambda keep: Method(QuestionGemFilter(keep=keep)),
    "gemfilter-q near": lambda keep: Method(QuestionGemFilter(keep=keep, near=NEAR)),
    "gemfilter-q snap": lambda keep: Method(QuestionGemFilter(keep=keep, snap=True)),
    "gemfilter-q near snap": lambda keep: Method(QuestionGemFilter(keep=keep, near=NEAR, snap=True)),
    "gemfilter-q narrow": lambda keep: Method(QuestionGemFilter(keep=keep, near=NEAR, narrow=NARROW)),
    "gemfilter-q narrow snap": lambda keep: Method(
        QuestionGemFilter(keep=keep, near=NEAR, narrow=NARROW, snap=True)
    ),
    "gemfilter-q late snap": lambda keep: Method(
        QuestionGemFilter(layer=LATE_LAYER, keep=keep, near=NEAR, narrow=NARROW, snap=True)
    ),
    "lazyllm": lambda keep: Method(LazyLLM()),
    "lazyllm 40 %": lambda keep: Method(LazyLLM(FORTY)),
    "lazyllm-q 40 %": lambda keep: Method(_lazy(FORTY)),
    "lazyllm-q late": lambda keep: Method(_lazy(LATE)),
    # Its own draft: what the method keeps, not what a smaller draft would save.
    "specprefill": lambda keep: Method(SpecPrefill(load_causal_lm(MODEL, dtype="float32"), keep)),
    "provence": lambda keep: Method(texts=_provence()),
    "provence + gemfilter-q": lambda keep: Method(QuestionGemFilter(keep=keep), _provence()),
}
HELP = ",".join(MAKERS).replace("%", "%%")  # argparse takes a percent sign for a place to fill


def methods(names: Iterable[str], keep: int) -> dict[str, Method]:
    """Make methods by name, ``full`` first.

    Raises:
        UnknownNameError: there is no such method.
    """
    found = {}
    for name in dict.fromkeys(("full", *names)):
        if name not in MAKERS:
            raise UnknownNameError("method", name, list(MAKERS))
        found[name] = MAKERS[name](keep)
    return found
