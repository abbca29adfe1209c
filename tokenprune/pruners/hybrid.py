"""The default: BM25 and word vectors look at everything, embeddings read what looks best."""

from tokenprune.document import KINDS
from tokenprune.pruners.base import Pruner
from tokenprune.registry import named
from tokenprune.render import renderer
from tokenprune.score.bm25 import BM25
from tokenprune.score.neighbours import Neighbours
from tokenprune.score.sections import Sections
from tokenprune.score.structure import Structured
from tokenprune.score.word_vectors import SHIPPED, WordVectors
from tokenprune.segment.by_kind import ByKind
from tokenprune.segment.html_blocks import HtmlBlocks
from tokenprune.select.choice import choose
from tokenprune.select.simple import ShareOfBest


def best_sections(model: str, embed_tokens: int) -> Sections:
    """Return the scorer of `hybrid`, which reads so many tokens with the encoder."""
    return Sections(Neighbours(BM25()), model, embed_tokens, WordVectors(SHIPPED))


@named(
    "hybrid",
    kinds=KINDS,
    models=("minilm-l6", SHIPPED),
    paper="two-step scoring as in HtmlRAG (arXiv 2411.02959) and IDCM (arXiv 2105.09816)",
    summary="BM25 and word vectors over everything, embeddings over the best of it: the default",
)
def hybrid(
    model: str = "minilm-l6",
    embed_tokens: int = 2048,
    max_words: int = 64,
    threshold: float | None = None,
    keep_ratio: float | None = None,
    top_k: int | None = None,
    output: str = "same",
) -> Pruner:
    """Compose the method.

    ``embed_tokens`` bounds what the encoder reads per call (at least two budgets): twice the tokens keep four
    points more of the evidence where a question shares few words with its answer (benchmarks/RESULTS.md).
    ``output`` is ``same``, ``html``, ``text`` or ``markdown``.
    """
    scorer = Structured(best_sections(model, embed_tokens))
    segmenter = ByKind(html=HtmlBlocks(max_words))
    return Pruner(segmenter, scorer, choose(ShareOfBest(0.6), threshold, keep_ratio, top_k), renderer(output))
