"""What every method is measured against: all tokens, chance, and a coarser grid."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenprune.vision.methods.base import VisionMethod, everything, named

if TYPE_CHECKING:
    from tokenprune.vision.tokens import Reduced, VisualTokens


@named("none", paper="baseline", summary="all visual tokens, whatever the budget")
def none() -> VisionMethod:
    """Keep everything, whatever the budget."""
    return VisionMethod(lambda tokens, rows: everything(tokens), own_count=True, exact=False)


@named("random", paper="baseline", summary="tokens drawn by chance, the same for the same number of tokens")
def random(seed: int = 0) -> VisionMethod:
    """Keep random tokens.

    The same ``seed`` draws the same places of every picture.
    """

    def decide(tokens: VisualTokens, rows: int | None) -> Reduced:
        import torch

        from tokenprune.vision.merge import select
        from tokenprune.vision.select import best

        order = torch.randperm(len(tokens), generator=torch.Generator().manual_seed(seed))
        scores = order.to(tokens.features.device).float()
        return select(tokens, best(scores, rows or 1), scores)

    return VisionMethod(decide)


@named("uniform", paper="baseline", summary="a coarser grid: frames, rows and columns at even distances")
def uniform() -> VisionMethod:
    """Keep tokens at even distances.

    A budget is shared by frames, then by rows of the grid, about as many rows as fit its proportions, then by
    columns; the remainders are spread evenly too, so that every budget is met to the token. Views of one
    picture share it by their sizes.
    """

    def decide(tokens: VisualTokens, rows: int | None) -> Reduced:
        from tokenprune.vision.merge import select
        from tokenprune.vision.select import even, even_grid, even_views

        budget = rows or 1
        if tokens.views:
            keep = even_views(tokens.views, budget)
        else:
            keep = even_grid(tokens.grid, budget) if tokens.whole else even(budget, len(tokens))
        return select(tokens, keep.to(tokens.features.device))

    return VisionMethod(decide)
