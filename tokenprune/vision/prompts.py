"""Placeholders and visual tokens: the one place that knows which placeholder stands for which token.

A LLaVA-type prompt holds one placeholder for each visual token, in their order, picture after picture; text
may stand between the pictures, also between the frames of a video. A token that is dropped takes its
placeholder with it. So what is left keeps its order and its place among the text, and positions close up, as
in any prompt that never had the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from tokenprune.arrays import IntArray
from tokenprune.engine.prompt import Prompt
from tokenprune.errors import VisionError
from tokenprune.vision.methods.base import everything

if TYPE_CHECKING:
    from tokenprune.vision.tokens import Reduced, VisualTokens


def expanded(ids: Sequence[int], image_token: int, seen: Sequence[VisualTokens]) -> list[int]:
    """Return the prompt with one placeholder per visual token.

    Args:
        ids: with one placeholder per visual token, per picture (each frame of a video is one), or per image
            and video.
        image_token: id of the placeholder.
        seen: images and videos, all of their tokens, in the order of the prompt.

    Raises:
        VisionError: another number of placeholders.
    """
    have = sum(token == image_token for token in ids)
    frames = [count for tokens in seen for count in _by_frame(tokens)]
    for sizes in ([1] * sum(frames), frames, [len(tokens) for tokens in seen]):
        if len(sizes) == have:
            left = iter(sizes)
            return [t for token in ids for t in ([token] * next(left) if token == image_token else [token])]
    raise VisionError(
        f"the prompt has {have} placeholders: there must be one for each of {len(seen)} images or videos, "
        f"for each of their {len(frames)} pictures, or for each of their {sum(frames)} visual tokens"
    )


def seeing(
    ids: Sequence[int],
    image_token: int,
    seen: Sequence[VisualTokens],
    left: Sequence[Reduced] | None = None,
) -> Prompt:
    """Return what the engine reads.

    Args:
        ids: as for :func:`expanded`.
        image_token: id of the placeholder.
        seen: images and videos, all of their tokens, in the order of the prompt.
        left: what a method left of each; None: everything.

    Raises:
        VisionError: placeholders, or what is left, do not fit ``seen``.
    """
    import torch

    left = [everything(tokens) for tokens in seen] if left is None else left
    stays = staying(ids := expanded(ids, image_token, seen), image_token, left)
    if [len(one.into) for one in left] != [len(tokens) for tokens in seen]:
        raise VisionError("what is left must be of the very images and videos that were seen, in their order")
    kept = tuple(ids[at] for at in stays)
    visual = tuple(at for at, token in enumerate(kept) if token == image_token)
    if not visual:
        return Prompt(kept)
    places, pictures = [], 0
    for tokens, one in zip(seen, left, strict=True):
        where = torch.stack([tokens.frame + pictures, tokens.row, tokens.col], 1)
        places.append(where[one.keep].cpu().numpy())
        pictures += tokens.grid[0]
    return Prompt(kept, visual, torch.cat([one.features for one in left]), np.concatenate(places))


def staying(ids: Sequence[int], image_token: int, left: Sequence[Reduced]) -> IntArray:
    """Return the positions of a prompt, one placeholder per visual token, that stay: int64, ascending.

    Raises:
        VisionError: as many placeholders as ``left`` was made of are not there.
    """
    holders = np.flatnonzero(np.asarray(ids, dtype=np.int64) == image_token)
    total = sum(len(one.into) for one in left)
    if len(holders) != total:
        raise VisionError(f"the prompt has {len(holders)} placeholders for {total} visual tokens")
    stays = np.ones(len(ids), dtype=bool)
    stays[holders] = False
    first = 0
    for one in left:
        stays[holders[first + one.keep.cpu().numpy()]] = True
        first += len(one.into)
    return np.flatnonzero(stays)


def _by_frame(tokens: VisualTokens) -> list[int]:
    """Return how many tokens each frame has."""
    import torch

    counts: list[int] = torch.bincount(tokens.frame, minlength=tokens.grid[0]).tolist()
    return counts
