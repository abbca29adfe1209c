"""What a retriever keeps: whole passages, the best first."""

from tokenprune.document import KINDS
from tokenprune.pruners.base import Pruner
from tokenprune.registry import named
from tokenprune.render import renderer
from tokenprune.score import Scorer
from tokenprune.score.bm25 import BM25
from tokenprune.score.embedding import Embedding
from tokenprune.segment.by_kind import ByKind
from tokenprune.segment.html_blocks import HtmlBlocks
from tokenprune.segment.passages import Passages
from tokenprune.select.choice import choose
from tokenprune.select.simple import TopK

_BEST = 5  # passages that are kept without a budget, as RAG applications do


@named(
    "bm25-passages",
    kinds=KINDS,
    paper="baseline; BM25: Robertson and Zaragoza 2009",
    summary="a retriever: whole passages by BM25, the best five unless there is a budget; needs no model",
)
def bm25_passages(
    max_words: int = 200,
    threshold: float | None = None,
    keep_ratio: float | None = None,
    top_k: int | None = None,
    output: str = "same",
) -> Pruner:
    """Compose the method.

    A document of more than ``max_words`` words is cut into passages, HTML into blocks of half as many.
    ``threshold`` is a BM25 sum, ``output`` is ``same``, ``html``, ``text`` or ``markdown``.
    """
    return _retriever(BM25(), max_words, threshold, keep_ratio, top_k, output)


@named(
    "embed-passages",
    kinds=KINDS,
    models=("minilm-l6",),
    paper="baseline; Sentence-BERT, arXiv 1908.10084",
    summary="a retriever: whole passages by embedding similarity, the best five unless there is a budget",
)
def embed_passages(
    model: str = "minilm-l6",
    max_words: int = 200,
    threshold: float | None = None,
    keep_ratio: float | None = None,
    top_k: int | None = None,
    output: str = "same",
) -> Pruner:
    """Compose the method.

    A document of more than ``max_words`` words is cut into passages, HTML into blocks of half as many.
    ``threshold`` is a cosine, ``output`` is ``same``, ``html``, ``text`` or ``markdown``.
    """
    return _retriever(Embedding(model), max_words, threshold, keep_ratio, top_k, output)


def _retriever(
    scorer: Scorer,
    max_words: int,
    threshold: float | None,
    keep_ratio: float | None,
    top_k: int | None,
    output: str,
) -> Pruner:
    cut = ByKind(html=HtmlBlocks(max(1, max_words // 2)), text=Passages(max_words))
    return Pruner(cut, scorer, choose(TopK(_BEST), threshold, keep_ratio, top_k), renderer(output))
