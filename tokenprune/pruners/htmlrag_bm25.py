"""HtmlRAG's block tree with BM25: no model, a few milliseconds a page."""

from collections.abc import Sequence

from tokenprune.pruners.base import Pruner
from tokenprune.registry import named
from tokenprune.render import renderer
from tokenprune.score.bm25 import BM25
from tokenprune.score.neighbours import Neighbours
from tokenprune.score.structure import Structured
from tokenprune.segment.html_blocks import HtmlBlocks
from tokenprune.select.choice import choose
from tokenprune.select.simple import ShareOfBest


@named(
    "htmlrag-bm25",
    kinds=("html",),
    paper="HtmlRAG, arXiv 2411.02959, section 4 (BM25 variant)",
    summary="block tree of the cleaned page, blocks by BM25; needs no model",
)
def htmlrag_bm25(
    max_words: int = 64,
    threshold: float | None = None,
    keep_ratio: float | None = None,
    top_k: int | None = None,
    keep_attributes: Sequence[str] = (),
    output: str = "same",
) -> Pruner:
    """Compose the method.

    ``threshold`` is a BM25 sum, ``output`` is ``same``, ``html``, ``text`` or ``markdown``.
    """
    selector = choose(ShareOfBest(0.4), threshold, keep_ratio, top_k)
    return Pruner(
        HtmlBlocks(max_words, tuple(keep_attributes)),
        Structured(Neighbours(BM25())),
        selector,
        renderer(output),
    )
