"""Scores of visual tokens, float32 [n], higher is better; scales differ between scorers."""

from __future__ import annotations

import torch

from tokenprune.errors import VisionError
from tokenprune.vision.tokens import VisualTokens


def received(tokens: VisualTokens) -> torch.Tensor:
    """Attention from all queries of the chosen encoder layer (FoPru, HoliTom)."""
    if tokens.received is None:
        raise VisionError("these visual tokens carry no attention of the vision encoder")
    return tokens.received.float()


def cls_or_received(tokens: VisualTokens) -> torch.Tensor:
    """Attention from the CLS query, or from all where the encoder has no CLS token (SigLIP)."""
    return received(tokens) if tokens.cls is None else tokens.cls.float()


def change(tokens: VisualTokens) -> torch.Tensor:
    """1 - cosine of a token to the one at its place a frame earlier; infinity in the first frame (EVS)."""
    similar = frame_cosines(tokens)
    first = torch.full_like(
        tokens.features[: len(tokens) // tokens.moments, 0], torch.inf, dtype=torch.float32
    )
    return torch.cat([first, (1 - similar).flatten()])


def frame_cosines(tokens: VisualTokens) -> torch.Tensor:
    """Cosine of each place in adjacent frames, float32 [frames - 1, places].

    All tokens of an image are one frame here, also where there are several views of it.

    Raises:
        VisionError: tokens are missing, so that there is no place a frame earlier.
    """
    if tokens.moments == 1:
        return tokens.features.new_empty((0, len(tokens)), dtype=torch.float32)
    if not tokens.whole:
        raise VisionError(
            f"frames can only be compared while all tokens of the grid {tokens.grid} are there; "
            f"these are {len(tokens)}"
        )
    unit = unit_rows(tokens.features).unflatten(0, (tokens.grid[0], -1))
    return (unit[1:] * unit[:-1]).sum(-1)


def unit_rows(rows: torch.Tensor) -> torch.Tensor:
    """Rows of unit length, float32; a row of zeros stays one."""
    return torch.nn.functional.normalize(rows.float(), dim=-1)


def above_whisker(scores: torch.Tensor) -> int:
    """Count scores above Q3 + 1.5 IQR, the upper whisker of a box plot (PruMerge)."""
    low, high = torch.quantile(
        scores.double(), torch.tensor([0.25, 0.75], dtype=torch.float64).to(scores.device)
    )
    return int((scores.double() > high + 1.5 * (high - low)).sum())


def head_mean_keys(tokens: VisualTokens) -> torch.Tensor:
    """Keys averaged over heads, float32 [n, k / heads]: the metric of VisionZip and ToMe."""
    return keys(tokens).unflatten(1, (tokens.heads, -1)).mean(1)


def keys(tokens: VisualTokens) -> torch.Tensor:
    """Keys of the chosen encoder layer, heads side by side, float32 [n, k]."""
    if tokens.keys is None:
        raise VisionError("these visual tokens carry no keys of the vision encoder")
    return tokens.keys.float()
