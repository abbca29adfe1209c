"""GemFilter: tokens that an early layer of a language model looks at, as published and by the question."""

from typing import Literal

from tokenprune.budget import Budget
from tokenprune.pruners.base import Pruner
from tokenprune.registry import named
from tokenprune.score.prompt_attention import EarlyLayer, PromptAttention
from tokenprune.segment import Segmenter
from tokenprune.segment.by_kind import ByKind
from tokenprune.segment.tokens import Tokens
from tokenprune.select.choice import choose
from tokenprune.select.simple import KeepRatio

KINDS = ("text", "examples", "chat", "triples")
Unit = Literal["token", "sentence"]
DEFAULT_RATIO = 0.25


def cut(unit: Unit) -> Segmenter:
    """Return the segmenter of a unit."""
    return Tokens() if unit == "token" else ByKind()


@named(
    "gemfilter",
    kinds=KINDS,
    models=("smollm2-135m",),
    paper="GemFilter, arXiv 2409.17422",
    summary="tokens by raw q.k of the last token in an early layer of a language model, as published",
)
def gemfilter(
    model: str = "smollm2-135m",
    layer: int | None = None,
    unit: Unit = "token",
    threshold: float | None = None,
    keep_ratio: float | None = None,
    top_k: int | None = None,
    dtype: str | None = None,
) -> Pruner:
    """Compose the method.

    Without a budget a quarter of the tokens stays. ``layer`` None takes that of the model's calibration
    (`tokenprune calibrate`), ``unit`` is ``token`` (tokens of the counting tokenizer; they read like a
    telegram) or ``sentence``.
    """
    reader = EarlyLayer(layer, question=False, softmax=False, kernel=5)
    selector = choose(KeepRatio(DEFAULT_RATIO), threshold, keep_ratio, top_k)
    return Pruner(cut(unit), PromptAttention(reader, model, dtype), selector)


@named(
    "gemfilter-q",
    kinds=KINDS,
    models=("smollm2-135m",),
    paper="GemFilter, arXiv 2409.17422, with the question's tokens as queries",
    summary="tokens or sentences by the attention of the question in an early layer of a language model",
)
def gemfilter_q(
    model: str = "smollm2-135m",
    layer: int | None = None,
    unit: Unit = "token",
    softmax: bool | None = None,
    kernel: int | None = None,
    heads: tuple[int, ...] | None = None,
    near: int | None = None,
    narrow: float | None = None,
    threshold: float | None = None,
    keep_ratio: float | None = None,
    top_k: int | None = None,
    dtype: str | None = None,
) -> Pruner:
    """Compose the method.

    Without a budget a quarter of the tokens stays. ``unit`` is ``token`` or ``sentence``. ``layer``,
    ``softmax`` (False scores by the raw product), ``kernel`` (odd: over how many neighbours scores are
    averaged) and ``heads`` (which query heads count) are as the model's calibration says where they are None
    (`tokenprune calibrate`). ``near``: while it reads, a token sees so many positions before it only, which
    is faster on long texts. ``narrow``: behind the first layer that looks only this share of the tokens is
    read on, or what stays by a budget or ratio, if that is more. ``threshold`` is an attention relative to an
    even look.
    """
    reader = EarlyLayer(layer, softmax=softmax, kernel=kernel, heads=heads, near=near, narrow=narrow)
    selector = choose(KeepRatio(DEFAULT_RATIO), threshold, keep_ratio, top_k)
    stays = Budget(keep_ratio=selector.ratio) if isinstance(selector, KeepRatio) else Budget()
    return Pruner(cut(unit), PromptAttention(reader, model, dtype, stays), selector)
