"""Lossless HTML cleaning."""

from collections.abc import Sequence

from tokenprune.pruners.base import Pruner
from tokenprune.registry import named
from tokenprune.render import renderer
from tokenprune.score.constant import Position
from tokenprune.segment.html_blocks import HtmlBlocks
from tokenprune.select.simple import Everything


@named(
    "clean-html",
    kinds=("html",),
    paper="HtmlRAG, arXiv 2411.02959, section 3.1",
    summary="markup that carries no words goes; every visible word stays",
)
def clean_html(keep_attributes: Sequence[str] = (), output: str = "same", drop_hidden: bool = True) -> Pruner:
    """Clean a page; a budget keeps its beginning.

    ``drop_hidden=False`` keeps text that people do not see, ``output`` is ``same``, ``html``, ``text`` or
    ``markdown``.
    """
    return Pruner(
        HtmlBlocks(128, tuple(keep_attributes), brief=False, drop_hidden=drop_hidden),
        Position(),
        Everything(),
        renderer(output),
        uses_query=False,
        in_order=True,
    )
