"""DivPrune: the most diverse subset of the visual tokens.

DivPrune, arXiv 2503.02175, section 3: keeping k tokens is the max-min diversity problem under cosine distance
of the features the language model reads; its greedy solution begins with the token whose nearest neighbour is
farthest. The published code is the same, but it may take a token twice where features are equal; ours does
not. What stays is in its original order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenprune.vision.methods.base import VisionMethod, named

if TYPE_CHECKING:
    from tokenprune.vision.tokens import Reduced, VisualTokens


@named(
    "divprune",
    paper="DivPrune, arXiv 2503.02175",
    summary="the most diverse tokens: each as far as possible from those taken before",
)
def divprune() -> VisionMethod:
    """Compose the method.

    Memory is 4 bytes per pair of tokens: 400 MB for 10,000 of them.
    """

    def decide(tokens: VisualTokens, rows: int | None) -> Reduced:
        from tokenprune.vision.merge import select
        from tokenprune.vision.score import unit_rows
        from tokenprune.vision.select import diverse

        return select(tokens, diverse(unit_rows(tokens.features), rows or 1))

    return VisionMethod(decide)
