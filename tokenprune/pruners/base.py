"""A pruner: segment -> score -> select -> render."""

from __future__ import annotations

from dataclasses import dataclass, field

from tokenprune.document import KINDS
from tokenprune.errors import ConfigError
from tokenprune.render import Renderer
from tokenprune.render.source import SameForm
from tokenprune.score import Scorer
from tokenprune.segment import Segmenter
from tokenprune.select import Selector


@dataclass(frozen=True)
class Pruner:
    """One method, put together from its four parts.

    Args:
        segmenter: document -> units.
        scorer: units and query -> scores.
        selector: decides when no budget is given; where one with a threshold keeps nothing of a whole call,
            the best stays (see `tokenprune.select.floor`).
        renderer: kept units -> content.
        name: shown in receipts.
        kinds: document kinds it accepts.
        uses_query: whether it needs a question; one that does not gives the same output for every question.
        in_order: under a budget, whether a document ends at the first unit that does not fit.
        floor: under a budget, the least score of a unit that may be kept; None: what fits is kept.
        reorder: whether the documents of a result stand in the order of their rank scores, best first; ranks
            are the scorer's own (see `tokenprune.score.Ranker`), else those of their best units.
        top_documents: of how many documents, the best by rank, anything may be kept; None: of all.
        ends: whether a page that it wrote goes to no pruner behind it.
        as_is: whether HTML that fits the budget stays as it came; otherwise it is cleaned all the same.
    """

    segmenter: Segmenter
    scorer: Scorer
    selector: Selector
    renderer: Renderer = field(default_factory=SameForm)
    name: str = "custom"
    kinds: tuple[str, ...] = KINDS
    uses_query: bool = True
    in_order: bool = False
    floor: float | None = None
    reorder: bool = False
    top_documents: int | None = None
    ends: bool = False
    as_is: bool = False

    def __post_init__(self) -> None:
        if self.top_documents is not None and self.top_documents < 1:
            raise ConfigError(f"top_documents must be 1 or more, not {self.top_documents}")

    @property
    def ranks(self) -> bool:
        """Whether the output depends on how documents rank among each other."""
        return self.reorder or self.top_documents is not None
