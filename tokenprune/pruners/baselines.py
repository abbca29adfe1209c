"""What every method is measured against: doing nothing, and chance."""

from typing import Literal

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
    """Keep everything; a budget keeps the beginning.

    ``output`` is ``same``, ``html``, ``text`` or ``markdown``.
    """
    return _cut("head", output)


@named(
    "tail",
    kinds=KINDS,
    paper="baseline",
    summary="no pruning; under a budget, the end of the text: what a window over a growing context keeps",
)
def tail(output: str = "same") -> Pruner:
    """Keep everything; a budget keeps the end, ``output`` is ``same``, ``html``, ``text`` or ``markdown``.

    Of the first sentence that does not fit whole, its beginning may stay.
    """
    return _cut("tail", output)


@named(
    "middle-out",
    kinds=KINDS,
    paper="baseline",
    summary="no pruning; under a budget, both ends of the text: the middle goes first",
)
def middle_out(output: str = "same") -> Pruner:
    """Keep everything; a budget keeps both ends.

    ``output`` is ``same``, ``html``, ``text`` or ``markdown``.
    """
    return _cut("ends", output)


def _cut(keep: Literal["head", "tail", "ends"], output: str) -> Pruner:
    return Pruner(
        ByKind(html=HtmlBlocks(40, brief=False)),
        Position(keep),
        Everything(),
        renderer(output),
        uses_query=False,
        in_order=True,
        as_is=True,
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

    ``output`` is ``same``, ``html``, ``text`` or ``markdown``.
    """
    selector = choose(KeepRatio(0.25), threshold, keep_ratio, top_k)
    return Pruner(ByKind(), Random(seed), selector, renderer(output), uses_query=False)
