"""Provence: sentences by the labels of a cross-encoder, which ranks the passages in the same pass."""

from tokenprune.document import KINDS
from tokenprune.errors import ConfigError
from tokenprune.models.labeler.cache import DEFAULT_CACHE_BYTES
from tokenprune.pruners.base import Pruner
from tokenprune.registry import named
from tokenprune.render import renderer
from tokenprune.score.bm25 import BM25
from tokenprune.score.labeling import Labeling
from tokenprune.score.neighbours import Neighbours
from tokenprune.score.shortlist import SHARE, Shortlist
from tokenprune.score.word_vectors import SHIPPED
from tokenprune.segment.by_kind import ByKind
from tokenprune.segment.html_blocks import HtmlBlocks
from tokenprune.segment.title_first import TitleFirst
from tokenprune.select import Selector
from tokenprune.select.choice import check_threshold
from tokenprune.select.keep_probability import KeepProbability
from tokenprune.select.simple import KeepRatio


@named(
    "provence",
    kinds=KINDS,
    models=(SHIPPED,),
    paper="Provence, arXiv 2501.16214; OpenProvence; XProvence, arXiv 2601.18886",
    summary="sentences by the labels of a cross-encoder that reads the whole passage, and ranks passages",
)
def provence(
    model: str = SHIPPED,
    threshold: float | None = None,
    keep_ratio: float | None = None,
    reorder: bool = False,
    top_k: int | None = None,
    always_select_title: bool = False,
    max_words: int = 64,
    read_tokens: int | None = None,
    skim: bool | None = None,
    cache_bytes: int = DEFAULT_CACHE_BYTES,
    output: str = "same",
) -> Pruner:
    """Compose the method.

    Without a budget a sentence stays when the mean keep probability of its tokens is above ``threshold``, 0
    to 1; None takes the model's own, 0.1 where it has none. Where no sentence of a call passes, the best
    one and those of its document that score at least half as much stay, whoever set the threshold. With a
    model whose config says so, as provence-mini's does, the rank of its passage among those of the call has a
    say in the probability.
    ``reorder`` puts the documents in the order of their rank scores, ``top_k`` keeps the best of them by
    rank, ``always_select_title`` keeps the first sentence of a text without a title of its own when another
    one stays. ``max_words`` is the size of a block of HTML. With ``skim`` word vectors rule out what is far
    from the question before the model reads the rest, where the model has any (`Shortlist`); what is not read
    goes first and has no rank. None: where not all ranks are wanted (``reorder``).
    ``read_tokens`` bounds what the model reads per call (at least two budgets), the most promising passages
    and stretches of long texts.
    """
    if threshold is not None and keep_ratio is not None:
        raise ConfigError("give only one of threshold and keep_ratio")
    check_threshold(threshold, "probabilities")
    if top_k is not None and top_k < 1:
        raise ConfigError(f"top_k must be 1 or more (None: all documents), not {top_k}")
    if cache_bytes < 0:
        raise ConfigError(f"cache_bytes must be 0 (nothing is remembered) or more, not {cache_bytes}")
    cut = ByKind(html=HtmlBlocks(max_words))
    labeling = Labeling(model, cache_bytes=cache_bytes)
    scorer = Shortlist(
        labeling,
        Neighbours(BM25()),
        read_tokens,
        skim=not reorder if skim is None else skim,
        share=max(SHARE, min(1.0, 2 * (keep_ratio or 0.0))),
    )
    selector: Selector = KeepProbability(model, threshold) if keep_ratio is None else KeepRatio(keep_ratio)
    return Pruner(
        TitleFirst(cut) if always_select_title else cut,
        scorer,
        selector,
        renderer(output),
        reorder=reorder,
        top_documents=top_k,
    )
