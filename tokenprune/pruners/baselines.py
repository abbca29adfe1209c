"""What every method is measured against: doing nothing, and chance."""

from tokenprune.document import KINDS
from tokenprune.pruners.base import Pruner
from tokenprune.registry import named
from tokenprune.render import renderer
from tokenprune.score.constant import Position, Random
from tokenprune.segment.by_kind import ByKind
from tokenprune.segment.html_blocks import HtmlBlocks
from tokenprune.select.choice import choose
from tokenprune.select.simple import Everything, KeepRatio


@named(
    "none",
    kinds=KINDS,
    paper="baseline",
    summary="no pruning; under a budget, the text cut at the end as a server would cut it",
)
def none(output: str = "same") -> Pruner:
    """Keep everything; a budget keeps the beginning, ``output`` is ``same``, ``text`` or ``markdown``."""
    segmenter = ByKind(html=HtmlBlocks(40, brief=False))
    return Pruner(
        segmenter, Position(), Everything(), renderer(output), uses_query=False, in_order=True, as_is=True
    )


@named("random", kinds=KINDS, paper="baseline", summary="units drawn by chance, the same for the same input")
def random(
    seed: int = 0,
    threshold: float | None = None,
    keep_ratio: float | None = None,
    top_k: int | None = None,
    output: str = "same",
) -> Pruner:
    """Keep random units, a quarter of the tokens unless told otherwise.

    ``output`` is ``same``, ``text`` or ``markdown``.
    """
    selector = choose(KeepRatio(0.25), threshold, keep_ratio, top_k)
    return Pruner(ByKind(), Random(seed), selector, renderer(output), uses_query=False)
