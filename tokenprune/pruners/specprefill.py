"""SpecPrefill: chunks of tokens that a draft model attends to while it goes on with the prompt."""

from tokenprune.pruners.base import Pruner
from tokenprune.pruners.gemfilter import DEFAULT_RATIO, KINDS, Unit, cut
from tokenprune.registry import named
from tokenprune.score.prompt_attention import LookAhead, PromptAttention
from tokenprune.select.choice import check_threshold, choose
from tokenprune.select.simple import KeepRatio


@named(
    "specprefill",
    kinds=KINDS,
    models=("smollm2-135m",),
    paper="SpecPrefill, arXiv 2502.02789",
    summary="chunks of tokens that a small model attends to while it begins the answer",
)
def specprefill(
    model: str = "smollm2-135m",
    unit: Unit = "token",
    lookahead: int = 8,
    kernel: int = 13,
    chunk: int = 32,
    threshold: float | None = None,
    keep_ratio: float | None = None,
    top_k: int | None = None,
    dtype: str | None = None,
) -> Pruner:
    """Compose the method.

    Without a budget a quarter of the tokens stays. ``model`` is the draft; the serving model may be any.
    ``lookahead`` is how many tokens the draft goes on for, ``kernel`` (odd) over how many neighbours its
    attention is averaged, ``chunk`` how many of its tokens stay or go together, ``unit`` is ``token`` or
    ``sentence``. ``threshold`` is an attention probability, 0 to 1, the most of all layers and heads.
    """
    check_threshold(threshold, "attention probabilities")
    selector = choose(KeepRatio(DEFAULT_RATIO), threshold, keep_ratio, top_k)
    reader = LookAhead(lookahead, kernel, chunk)
    return Pruner(cut(unit), PromptAttention(reader, model, dtype), selector)
