"""The projector's own training, between tower and reader: every patch's input to the language model becomes
the sum of the words that are true of it.

This stands for LLaVA's first stage (Visual Instruction Tuning, section 4.2: projector alone, on captions):
the language model then finds a thing by the embedding of its word and reads its attributes off as words.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration

from benchmarks.vision.model import GRID, PATCHES, tokenizer
from benchmarks.vision.words import COLOURS, DIGITS, KINDS, PLACES

# What a patch can say: colour, kind, sort and place of its object, whether the object's centre lies in it.
# Besides it says where it lies itself, for which there are no words.
WORDS = (*COLOURS, *KINDS, "digit", "shape", *PLACES, "object")
SHARP = 8.0  # a word is as likely true as not at a projection of half of it


def spread(model: LlavaForConditionalGeneration) -> None:
    """Give all words of the language model embeddings at right angles, of length 1."""
    nn.init.orthogonal_(model.get_input_embeddings().weight)


class Targets(nn.Module):
    """Directions that a projected patch is read along: words, and rows and columns of the grid."""

    def __init__(self, model: LlavaForConditionalGeneration):
        super().__init__()
        ids = torch.tensor(tokenizer().convert_tokens_to_ids(list(WORDS)))
        table = model.get_input_embeddings().weight.detach()
        # The grid's directions at right angles to all words.
        basis = torch.linalg.qr(torch.cat([table, torch.randn(2 * GRID, table.shape[1])]).T).Q.T
        self.register_buffer("directions", torch.cat([table[ids], basis[len(table) :]]))

    def forward(self, projected: Tensor) -> Tensor:
        """Return logits [b, patches, words + rows + columns] of projected patches [b, patches, h]."""
        logits: Tensor = SHARP * (projected @ self.directions.T - 0.5)
        return logits


def truths(patches: Tensor) -> Tensor:
    """Turn the tower's labels [b, patches, 6] into what is true of each patch (0 or 1), in Targets' order."""
    colour, kind, place = (patches[..., i].long() for i in range(3))
    covered = (kind > 0).float()[..., None]
    digit = (kind >= 1) & (kind <= len(DIGITS))
    sort = torch.stack([digit, (kind > 0) & ~digit], dim=-1).float()
    grid = torch.arange(PATCHES)
    own = torch.cat([F.one_hot(grid // GRID, GRID), F.one_hot(grid % GRID, GRID)], dim=-1).float()
    return torch.cat(
        [
            F.one_hot(colour, len(COLOURS) + 1)[..., 1:].float(),
            F.one_hot(kind, len(KINDS) + 1)[..., 1:].float(),
            sort,
            F.one_hot(place, len(PLACES)).float() * covered,
            patches[..., 5:6],
            own.expand(len(patches), -1, -1),
        ],
        dim=-1,
    )


def loss(targets: Targets, projected: Tensor, patches: Tensor) -> tuple[Tensor, dict[str, float]]:
    """Return the loss of a batch, and the share of patches of objects all of whose words are right."""
    logits, wanted = targets(projected), truths(patches)
    each = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none").sum(-1)
    covered = patches[..., 1] > 0
    weight = torch.where(covered, 1.0, 0.25)  # most patches are background
    right = ((logits > 0) == (wanted > 0))[..., : len(WORDS)]
    shares = {
        "words": float(right[covered].all(-1).float().mean()),
        "background": float(right[~covered].all(-1).float().mean()),
        "grid": float(((logits > 0) == (wanted > 0))[..., len(WORDS) :].all(-1).float().mean()),
    }
    return (each * weight).sum() / weight.sum(), shares
