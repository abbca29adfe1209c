"""EVS: of each frame, what changed since the one before.

Efficient Video Sampling, arXiv 2510.14624, as vLLM ships it (``--video-pruning-method evs``): a token's score
is 1 - the cosine to the token at its place in the previous frame, on the features the language model reads;
the first frame stays whole, and the best scores of the whole video fill the budget.

As in vLLM, a budget smaller than a frame still leaves the first frame whole, so an image stays as it is (one
of several tiles too).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenprune.vision.methods.base import VisionMethod, named

if TYPE_CHECKING:
    from tokenprune.vision.tokens import Reduced, VisualTokens


@named(
    "evs",
    paper="Efficient Video Sampling, arXiv 2510.14624",
    summary="video: the first frame, then what changed most since the frame before",
)
def evs() -> VisionMethod:
    """Compose the method.

    A budget smaller than one frame still leaves the first frame whole.
    """

    def decide(tokens: VisualTokens, rows: int | None) -> Reduced:
        from tokenprune.vision.merge import select
        from tokenprune.vision.score import change
        from tokenprune.vision.select import best

        scores = change(tokens)
        least = len(tokens) // tokens.moments
        return select(tokens, best(scores, max(least, rows or 1)), scores)

    return VisionMethod(decide, exact=False)
