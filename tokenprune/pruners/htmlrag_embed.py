"""HtmlRAG's first step: blocks of the cleaned page by embedding similarity, all of them read."""

from collections.abc import Sequence

from tokenprune.pruners.base import Pruner
from tokenprune.registry import named
from tokenprune.render import renderer
from tokenprune.score.bm25 import BM25
from tokenprune.score.neighbours import Neighbours
from tokenprune.score.sections import Sections
from tokenprune.score.structure import Structured
from tokenprune.segment.html_blocks import HtmlBlocks
from tokenprune.select.choice import choose
from tokenprune.select.simple import ShareOfBest


@named(
    "htmlrag-embed",
    kinds=("html",),
    models=("minilm-l6",),
    paper="HtmlRAG, arXiv 2411.02959, section 3.3",
    summary="block tree of the cleaned page, blocks by similarity of block, section and heading",
)
def htmlrag_embed(
    max_words: int = 64,
    model: str = "minilm-l6",
    threshold: float | None = None,
    keep_ratio: float | None = None,
    top_k: int | None = None,
    keep_attributes: Sequence[str] = (),
    output: str = "same",
) -> Pruner:
    """Compose the method.

    ``threshold`` is a score, ``output`` is ``same``, ``html``, ``text`` or ``markdown``.
    """
    selector = choose(ShareOfBest(0.65), threshold, keep_ratio, top_k)
    return Pruner(
        HtmlBlocks(max_words, tuple(keep_attributes)),
        Structured(Sections(Neighbours(BM25()), model, max_tokens=None, weight=2.0)),
        selector,
        renderer(output),
    )
