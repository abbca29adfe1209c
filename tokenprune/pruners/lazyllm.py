"""LazyLLM: the tokens that reach the last layers of a language model that drops tokens as it reads."""

from tokenprune.budget import Budget
from tokenprune.pruners.base import Pruner
from tokenprune.pruners.gemfilter import KINDS, Unit, cut
from tokenprune.registry import named
from tokenprune.score.prompt_attention import LayersReached, PromptAttention
from tokenprune.select.choice import check_threshold, choose
from tokenprune.select.simple import Threshold


@named(
    "lazyllm",
    kinds=KINDS,
    models=("smollm2-135m",),
    paper="LazyLLM, arXiv 2407.14057",
    summary="tokens that reach the last layer of a language model that drops the least attended on the way",
)
def lazyllm(
    model: str = "smollm2-135m",
    unit: Unit = "token",
    question: bool = True,
    threshold: float | None = None,
    keep_ratio: float | None = None,
    top_k: int | None = None,
    dtype: str | None = None,
) -> Pruner:
    """Compose the method.

    Without a budget tokens that reach the last layer stay, about a third under the published schedule. Under
    a budget, or with ``keep_ratio``, about as many reach it as may stay, and of equals those stay that are
    looked at most. ``question``: its tokens score the others; False, as published, the last token of the
    prompt does. ``threshold`` is a share of the layers, 0 to 1; ``unit`` is ``token`` or ``sentence``.
    """
    check_threshold(threshold, "shares of the layers")
    selector = choose(Threshold(1.0), threshold, keep_ratio, top_k)
    scorer = PromptAttention(LayersReached(question=question), model, dtype, Budget(keep_ratio=keep_ratio))
    return Pruner(cut(unit), scorer, selector)
