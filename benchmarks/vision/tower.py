"""The vision tower's own training: every patch says what covers it, the class token what the picture holds.

This stands for CLIP's training on captions, which a model of this size and an hour do not allow. The heads
are thrown away afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import CLIPVisionModel

from benchmarks.vision.model import GRID, MEAN, PATCH, PATCHES, STD
from benchmarks.vision.scenes import Pixels, Scene, Thing, corner
from benchmarks.vision.words import COLOURS, KINDS, PLACES

MOST = 10  # objects in a picture, for the class token's count
_COVERED = 0.2  # of a patch by an object's box, so that the patch counts as the object's


class Heads(nn.Module):
    """Linear readings of what the tower says of patches and of the whole picture."""

    def __init__(self, width: int):
        super().__init__()
        self.sizes = {"colour": len(COLOURS) + 1, "kind": len(KINDS) + 1, "place": len(PLACES)}
        self.patch = nn.Linear(width, sum(self.sizes.values()) + 3)
        self.whole = nn.Linear(width, len(COLOURS) + len(KINDS) + MOST)

    def forward(self, states: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Read states [b, 1 + patches, width]; the class token is the first."""
        parts = self.patch(states[:, 1:]).split([*self.sizes.values(), 2, 1], dim=-1)
        return dict(zip([*self.sizes, "offset", "centre"], parts, strict=True)), self.whole(states[:, 0])


def labels(things: Sequence[Thing], frame: int) -> NDArray[np.float32]:
    """Say of every patch [patches, 6]: colour, kind (0: background), place, offset (x, y) of the object's
    centre from the patch's in patches, whether the centre lies in it."""
    found = np.zeros((GRID, GRID, 6), dtype=np.float32)
    most = np.full((GRID, GRID), _COVERED)
    edges = np.arange(GRID) * PATCH
    for thing in things:
        left, top = corner(thing, frame)
        along = [
            np.clip(np.minimum(edges + PATCH, start + thing.size) - np.maximum(edges, start), 0, None) / PATCH
            for start in (left, top)
        ]
        share = along[1][:, None] * along[0][None]
        own = share > most
        most = np.where(own, share, most)
        x, y = thing.path[frame]
        found[own, 0] = COLOURS.index(thing.colour) + 1
        found[own, 1] = KINDS.index(thing.kind) + 1
        found[own, 2] = PLACES.index(thing.place(frame))
        found[..., 3] = np.where(own, ((x - edges) / PATCH - 0.5)[None], found[..., 3])
        found[..., 4] = np.where(own, ((y - edges) / PATCH - 0.5)[:, None], found[..., 4])
        found[y // PATCH, x // PATCH, 5] = 1
    return found.reshape(PATCHES, 6)


def summary(things: Sequence[Thing]) -> NDArray[np.float32]:
    """Say which colours and kinds a picture holds (0 or 1 each) and, last, how many objects."""
    found = np.zeros(len(COLOURS) + len(KINDS) + 1, dtype=np.float32)
    for thing in things:
        found[COLOURS.index(thing.colour)] = 1
        found[len(COLOURS) + KINDS.index(thing.kind)] = 1
    found[-1] = len(things)
    return found


def targets(scenes: Sequence[Scene], frames: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return the patches' labels [b, patches, 6] and the pictures' [b, colours + kinds + 1]."""
    patches = np.stack([labels(s.things, f) for s, f in zip(scenes, frames, strict=True)])
    return torch.from_numpy(patches), torch.from_numpy(np.stack([summary(s.things) for s in scenes]))


def normalized(pixels: Pixels) -> Tensor:
    """Turn pixels [b, height, width, 3] into what the processor would make of them [b, 3, height, width]."""
    scaled = torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).float() / 255
    return (scaled - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def loss(
    tower: CLIPVisionModel, heads: Heads, pixels: Tensor, patches: Tensor, whole: Tensor
) -> tuple[Tensor, dict[str, float]]:
    """Return the loss of a batch and the share of right readings (of patches that are an object's)."""
    read, said = heads(tower(pixels).last_hidden_state)
    colour, kind, place = (patches[..., i].long() for i in range(3))
    covered = kind > 0
    # Most patches are background: they count for less.
    weight = torch.where(covered, 1.0, 0.25)
    total = torch.zeros(())
    for name, wanted in (("colour", colour), ("kind", kind)):
        each = F.cross_entropy(read[name].flatten(0, 1), wanted.flatten(), reduction="none")
        total = total + (each * weight.flatten()).sum() / weight.sum()
    total = total + F.cross_entropy(read["place"][covered], place[covered])
    total = total + F.mse_loss(read["offset"][covered], patches[..., 3:5][covered])
    centre = F.binary_cross_entropy_with_logits(
        read["centre"][..., 0], patches[..., 5], pos_weight=torch.tensor(5.0)
    )
    held, count = said.split([whole.shape[1] - 1, MOST], dim=1)
    summed = F.binary_cross_entropy_with_logits(held, whole[:, :-1])
    total = total + centre + 2 * summed + 0.3 * F.cross_entropy(count, whole[:, -1].long())
    wanted_by_name = {"colour": colour, "kind": kind, "place": place}
    right = {
        name: float((read[name].argmax(-1) == wanted)[covered].float().mean())
        for name, wanted in wanted_by_name.items()
    }
    right["count"] = float((count.argmax(-1) == whole[:, -1]).float().mean())
    right["held"] = float(((held > 0) == (whole[:, :-1] > 0)).float().mean())
    return total, right
