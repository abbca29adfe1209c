"""PruMerge: as many tokens as stand out of the CLS attention, each with its nearest others merged in.

LLaVA-PruMerge, arXiv 2403.15388, section 3: tokens whose CLS attention lies above the upper whisker of a box
plot (Q3 + 1.5 IQR) stay, so that the count follows the picture; each takes in the 32 tokens with the nearest
keys, weighted by their attention. PruMerge+ adds tokens at even distances: every s-th, s being a third of the
inverse share of those that stand out, rounded down twice as in the published code; so about three for each.

Where we differ: attention is the mean over heads, where the published code treats all heads as one; attention
and keys come from the layer whose features are read, where the code takes the one above it; merging works
behind the projector and divides by the sum of the weights (the token's own is 1), where the code adds without
dividing; the code's one extra row, the attention-weighted sum of all dropped tokens, is not made; rows are in
their original order. Where more than a sixth of the tokens stand out, s would be 1 and PruMerge+ leave
nothing out: there the distance is not rounded. No more than a quarter can lie above the whisker, so that
something goes from every picture. With a budget, that many of the highest attention stay (of PruMerge+, half
of them, and the other half at even distances among the rest). Encoders without CLS: attention from all
queries.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenprune.errors import ConfigError
from tokenprune.vision.methods.base import VisionMethod, named

if TYPE_CHECKING:
    import torch

    from tokenprune.vision.tokens import Reduced, VisualTokens


@named(
    "prumerge",
    paper="LLaVA-PruMerge, arXiv 2403.15388",
    summary="tokens that stand out of the CLS attention, nearest others merged in; count follows the picture",
)
def prumerge(plus: bool = False, neighbours: int = 32) -> VisionMethod:
    """Compose the method.

    Without a budget the picture decides how many tokens stay. ``plus``: PruMerge+, tokens at even distances
    besides, about three for each that stands out; ``neighbours``: tokens merged into each that stays.
    """
    if neighbours < 1:
        raise ConfigError(f"neighbours must be 1 or more, not {neighbours}")

    def decide(tokens: VisualTokens, rows: int | None) -> Reduced:
        from tokenprune.vision.merge import weighted_neighbours
        from tokenprune.vision.score import cls_or_received, keys, unit_rows

        scores = cls_or_received(tokens)
        keep = _outstanding(scores, plus) if rows is None else _budgeted(scores, rows, plus)
        return weighted_neighbours(tokens, keep, unit_rows(keys(tokens)), scores, neighbours)

    return VisionMethod(decide, needs=("received", "keys"), own_count=True)


def _outstanding(scores: torch.Tensor, plus: bool) -> torch.Tensor:
    import torch

    from tokenprune.vision.score import above_whisker
    from tokenprune.vision.select import best

    count = max(1, above_whisker(scores))
    keep = best(scores, count)
    if not plus:
        return keep
    n = len(scores)
    step = n // count // 3
    # Of a step of 1 or 0 nothing would be left out: three for each that stands out, as ever.
    extra = torch.arange(0, n, step) if step > 1 else torch.arange(0, n * 3 * count, n) // (3 * count)
    return torch.cat([keep, extra.to(keep.device)]).unique()


def _budgeted(scores: torch.Tensor, rows: int, plus: bool) -> torch.Tensor:
    import torch

    from tokenprune.vision.select import best, even

    keep = best(scores, rows - rows // 2 if plus else rows)
    if not plus or rows == len(keep):
        return keep
    rest = torch.ones(len(scores), dtype=torch.bool, device=scores.device)
    rest[keep] = False
    others = rest.nonzero().squeeze(1)
    more = others[even(rows - len(keep), len(others)).to(scores.device)]
    return torch.cat([keep, more]).sort().values
