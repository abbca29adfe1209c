"""HtmlRAG: similarity on coarse blocks, then the language model's path to finer ones."""

from collections.abc import Sequence
from typing import Literal

from tokenprune.pruners.base import Pruner
from tokenprune.pruners.hybrid import best_sections
from tokenprune.registry import named
from tokenprune.render import renderer
from tokenprune.score import Scorer
from tokenprune.score.bm25 import BM25
from tokenprune.score.generative import LocalPathModel, PathProbability
from tokenprune.score.generative_upstream import UpstreamPathModel
from tokenprune.score.neighbours import Neighbours
from tokenprune.score.sections import Sections
from tokenprune.score.structure import Structured
from tokenprune.score.two_step import TwoStep
from tokenprune.segment.html_blocks import HtmlBlocks
from tokenprune.select.choice import choose
from tokenprune.select.simple import ShareOfBest


@named(
    "htmlrag",
    kinds=("html",),
    models=("minilm-l6", "smollm2-135m"),
    paper="HtmlRAG, arXiv 2411.02959, sections 3.3 and 3.4",
    summary="both steps: embedding similarity on coarse blocks, then path probability under a causal LM",
)
def htmlrag(
    model: str = "smollm2-135m",
    first: Literal["hybrid", "embedding", "bm25"] = "embedding",
    encoder: str = "minilm-l6",
    first_budget: int = 2048,
    coarse_words: int = 256,
    max_words: int = 64,
    blend: float = 0.2,
    upstream: str | None = None,
    threshold: float | None = None,
    keep_ratio: float | None = None,
    top_k: int | None = None,
    keep_attributes: Sequence[str] = (),
    output: str = "same",
) -> Pruner:
    """Compose the method.

    ``first`` scores the first step (by default, as in the paper, embeddings of the whole page), ``encoder``
    is its model; ``first_budget`` is what the language model ``model`` reads; ``blend`` is the share of its
    scores. 1 is the paper's way, for a model that was trained
    to write paths; one that was not guesses, and alone it loses half (benchmarks/RESULTS.md). With an
    ``upstream`` URL the model is asked there, under the name ``model``, not loaded here;
    ``output`` is ``same``, ``html``, ``text`` or ``markdown``.
    """
    steps: dict[str, Scorer] = {
        "bm25": Neighbours(BM25()),
        "embedding": Sections(Neighbours(BM25()), encoder, max_tokens=None),
        "hybrid": best_sections(encoder, 2048),
    }
    reader = LocalPathModel(model) if upstream is None else UpstreamPathModel(upstream, model)
    paths = PathProbability(reader)
    scorer = TwoStep(steps[first], paths, first_budget, coarse_words, blend)
    selector = choose(ShareOfBest(0.6), threshold, keep_ratio, top_k)
    return Pruner(
        HtmlBlocks(max_words, tuple(keep_attributes)), Structured(scorer), selector, renderer(output)
    )
