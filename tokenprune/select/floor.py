"""What stays when a threshold would leave a call with nothing: a model must not be asked of nothing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tokenprune.arrays import BoolArray, FloatArray
from tokenprune.select import Selector
from tokenprune.select.simple import Everything, KeepRatio, TopK
from tokenprune.units import Units

REASON = "floor"  # of the units that stay for this, in receipts
_SHARE = 0.5  # of the best score: what stays beside the best unit of its document
_COUNTED = (Everything, KeepRatio, TopK)  # they keep as much as they were asked to, be it nothing


def holds(selector: Selector) -> bool:
    """Whether a selector compares scores with a bar, so that nothing may pass it."""
    return not isinstance(selector, _COUNTED)


def tell_nothing(scores: Sequence[FloatArray]) -> bool:
    """Whether all units score alike, float64 [n] per document: no word of a question occurs in any."""
    return len({value for own in scores for value in own.tolist() if value == value}) <= 1


def best_of_nothing(documents: Sequence[Units], scores: Sequence[FloatArray]) -> list[BoolArray]:
    """Choose the best unit with words, and of its document what scores at least half as much.

    Scores of 0 or less have no half that means anything: then the best unit stays alone.

    Args:
        documents: segmented documents of which nothing else stays.
        scores: float64 [n] per document, on one scale.

    Returns:
        bool [n] per document, all false where no unit has words.
    """
    masks = [np.zeros(len(u), dtype=bool) for u in documents]
    best, where, unit = -np.inf, -1, -1
    for n, (units, own) in enumerate(zip(documents, scores, strict=True)):
        for i, score in enumerate(np.nan_to_num(own, nan=-np.inf, neginf=-np.inf).tolist()):
            if (where < 0 or score > best) and units.texts[i].strip():
                best, where, unit = score, n, i
    if where >= 0:
        masks[where][unit] = True
        if best > 0:
            masks[where] |= scores[where] >= _SHARE * best
    return masks
