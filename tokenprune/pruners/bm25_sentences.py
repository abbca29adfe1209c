"""Sentences by BM25."""

from tokenprune.document import KINDS
from tokenprune.pruners.base import Pruner
from tokenprune.registry import named
from tokenprune.render import renderer
from tokenprune.score.bm25 import BM25
from tokenprune.score.structure import Structured
from tokenprune.segment.by_kind import ByKind
from tokenprune.select.choice import choose
from tokenprune.select.simple import ShareOfBest


@named(
    "bm25-sentences",
    kinds=KINDS,
    paper="BM25: Robertson and Zaragoza 2009",
    summary="sentences that share rare words with the question; needs no model",
)
def bm25_sentences(
    threshold: float | None = None,
    keep_ratio: float | None = None,
    top_k: int | None = None,
    output: str = "same",
) -> Pruner:
    """Compose the method.

    ``threshold`` is a BM25 sum, ``output`` is ``same``, ``html``, ``text`` or ``markdown``.
    """
    return Pruner(
        ByKind(), Structured(BM25()), choose(ShareOfBest(0.3), threshold, keep_ratio, top_k), renderer(output)
    )
