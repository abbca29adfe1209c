"""Sentences by embedding similarity."""

from tokenprune.document import KINDS
from tokenprune.pruners.base import Pruner
from tokenprune.registry import named
from tokenprune.render import renderer
from tokenprune.score.embedding import Embedding
from tokenprune.score.structure import Structured
from tokenprune.segment.by_kind import ByKind
from tokenprune.select.choice import choose
from tokenprune.select.simple import ShareOfBest


@named(
    "embed-sentences",
    kinds=KINDS,
    models=("minilm-l6",),
    paper="Sentence-BERT, arXiv 1908.10084",
    summary="sentences by embedding similarity to the question",
)
def embed_sentences(
    model: str = "minilm-l6",
    threshold: float | None = None,
    keep_ratio: float | None = None,
    top_k: int | None = None,
    output: str = "same",
) -> Pruner:
    """Compose the method.

    ``threshold`` is a cosine, ``output`` is ``same``, ``html``, ``text`` or ``markdown``.
    """
    selector = choose(ShareOfBest(0.6), threshold, keep_ratio, top_k)
    return Pruner(ByKind(), Structured(Embedding(model)), selector, renderer(output))
