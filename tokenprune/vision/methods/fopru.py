"""FoPru: the tokens that the vision encoder itself attends to.

FoPru, arXiv 2411.14164, section 3: a token's significance is the attention it gets in the vision encoder's
penultimate layer (the layer whose output LLaVA-1.5 reads), averaged over heads and queries. The rank strategy
keeps the highest of the whole picture; the row strategy keeps whole rows of the patch grid, those with the
highest sums. What stays goes back into its original order.

Where we differ: whether the paper's mean counts the CLS query could not be looked up; ours does. A budget
that is not a multiple of the row length is met to the token: the next best row gives its best tokens. Where a
picture comes as a whole and in tiles, rows differ in length, and the highest means count.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from tokenprune.vision.methods.base import VisionMethod, named

if TYPE_CHECKING:
    from tokenprune.vision.tokens import Reduced, VisualTokens


@named(
    "fopru",
    paper="FoPru, arXiv 2411.14164",
    summary="tokens with the most attention in the vision encoder, one by one or by whole rows",
)
def fopru(strategy: Literal["rank", "row"] = "rank") -> VisionMethod:
    """Compose the method.

    ``strategy``: ``rank`` keeps the best tokens of the picture, ``row`` the best rows of its patch grid. Of a
    budget that no number of rows meets, the rest goes to the best tokens of the next row.
    """

    def decide(tokens: VisualTokens, rows: int | None) -> Reduced:
        from tokenprune.vision.merge import select
        from tokenprune.vision.score import received
        from tokenprune.vision.select import best, best_lines

        scores = received(tokens)
        if strategy == "rank":
            return select(tokens, best(scores, rows or 1), scores)
        line = tokens.frame * tokens.grid[1] + tokens.row
        return select(tokens, best_lines(scores, line, rows or 1), scores)

    return VisionMethod(decide, needs=("received",))
