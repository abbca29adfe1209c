"""VisionZip: dominant tokens as they are, the others merged into a few contextual ones.

VisionZip, arXiv 2412.04467, section 3: dominant tokens get the most attention from the CLS query (from all
queries where the encoder has no CLS token); of the others, every s-th becomes a contextual token that takes
in those whose keys (mean over heads) are most similar to its own. The published split is 54 dominant and 10
contextual tokens of 64, and it stays in proportion at 128 and 192; ours does at every budget.

Where we differ: the CLS token is never among the rows (LLaVA does not read it); merging works on the features
behind the projector; a contextual token is the mean of all tokens in it, where the published code adds the
mean of those merged to the token itself, which doubles its length; the rows are in their original order,
where the published ones have the contextual tokens last. Of a video, tokens of all frames compete.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenprune.errors import ConfigError
from tokenprune.vision.methods.base import VisionMethod, named

if TYPE_CHECKING:
    from tokenprune.vision.tokens import Reduced, VisualTokens

_CONTEXTUAL = 10 / 64


@named(
    "visionzip",
    paper="VisionZip, arXiv 2412.04467",
    summary="tokens the encoder's CLS token attends to, the others merged into a few by key similarity",
)
def visionzip(contextual: float = _CONTEXTUAL) -> VisionMethod:
    """Compose the method.

    ``contextual``: share of the budget that goes to merged tokens, 0 up to (not including) 1.
    """
    if not 0 <= contextual < 1:
        raise ConfigError(f"contextual must be a share from 0 up to (not including) 1, not {contextual}")

    def decide(tokens: VisualTokens, rows: int | None) -> Reduced:
        import torch

        from tokenprune.vision.merge import average, most_similar
        from tokenprune.vision.score import cls_or_received, head_mean_keys, unit_rows
        from tokenprune.vision.select import best

        budget = rows or 1
        merged = min(round(budget * contextual), budget - 1)
        scores = cls_or_received(tokens)
        dominant = best(scores, budget - merged)
        rest = torch.ones(len(tokens), dtype=torch.bool, device=scores.device)
        rest[dominant] = False
        others = rest.nonzero().squeeze(1)
        targets = others[:: max(1, len(others) // max(1, merged))][:merged]
        rest[targets] = False
        keep = torch.cat([dominant, targets]).sort().values
        into = torch.full((len(tokens),), -1, dtype=torch.int64, device=scores.device)
        into[keep] = torch.arange(len(keep), device=scores.device)
        if merged:
            others = rest.nonzero().squeeze(1)
            unit = unit_rows(head_mean_keys(tokens))
            into[others] = into[targets[most_similar(unit, targets, others)]]
        return average(tokens, keep, into, scores)

    return VisionMethod(decide, needs=("received", "keys"))
