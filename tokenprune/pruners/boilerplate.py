"""Main content of a page, whatever the question."""

from collections.abc import Sequence
from typing import Literal

from tokenprune.pruners.base import Pruner
from tokenprune.registry import named
from tokenprune.render import renderer
from tokenprune.score.main_content import MainContent
from tokenprune.score.page_rules import FAVOUR
from tokenprune.segment.html_blocks import HtmlBlocks
from tokenprune.select.choice import choose
from tokenprune.select.simple import Threshold


@named(
    "boilerplate",
    kinds=("html",),
    paper="Kohlschuetter et al. 2010; jusText, Pomikalek 2011; Readability",
    summary="main content, the same for every question: navigation, ads, related links and comments go",
)
def boilerplate(
    max_words: int = 24,
    favour: Literal["balance", "precision", "recall"] = "balance",
    threshold: float | None = None,
    keep_ratio: float | None = None,
    top_k: int | None = None,
    keep_attributes: Sequence[str] = (),
    output: str = "same",
) -> Pruner:
    """Compose the method.

    ``threshold`` is a likelihood in [0, 1] and takes the place of ``favour``.
    """
    return Pruner(
        HtmlBlocks(max_words, tuple(keep_attributes), markup=True),
        MainContent(),
        choose(Threshold(FAVOUR[favour]), threshold, keep_ratio, top_k),
        renderer(output),
        uses_query=False,
        floor=FAVOUR[favour] if threshold is None else threshold,
    )
