"""Low-rank updates that merge into a pruned matrix without filling its zeros.

LoRA (Hu et al. 2021, arXiv 2106.09685); where a matrix has pruned weights the update is masked in training as
well as in merging (MaskLoRA of PERP, Zimmer et al. 2023, arXiv 2312.15230, section 3).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn


class LoraLinear(nn.Module):  # type: ignore[misc]
    """A linear map with W + s B A, masked where W is zero."""

    def __init__(self, base: nn.Linear, rank: int, alpha: float) -> None:
        """Wrap ``base``; B begins at zero, so nothing changes at first."""
        super().__init__()
        out, wide = base.weight.shape
        self.base = base
        self.scale = alpha / rank
        self.a = nn.Parameter(torch.empty(rank, wide))
        self.b = nn.Parameter(torch.zeros(out, rank))
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))
        stays = base.weight.detach() != 0
        self.register_buffer("stays", None if bool(stays.all()) else stays, persistent=False)

    def update(self) -> torch.Tensor:
        """Return what merging adds to W [out, in]."""
        product = (self.b @ self.a) * self.scale
        return product if self.stays is None else product * self.stays

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map x [..., in]."""
        if self.stays is None:
            return self.base(x) + nn.functional.linear(nn.functional.linear(x, self.a), self.b) * self.scale
        return nn.functional.linear(x, self.base.weight + self.update(), self.base.bias)


def wrap(model: Any, rank: int, alpha: float, seed: int) -> list[tuple[Any, str, LoraLinear]]:
    """Put updates on every linear map of the decoder layers; return (owner, attribute, wrapper) of each."""
    state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    wrapped = []
    try:
        for layer in model.model.layers:
            for owner in list(layer.modules()):
                for name, child in list(owner.named_children()):
                    if isinstance(child, nn.Linear) and child.weight.numel():
                        wrapper = LoraLinear(child, rank, alpha)
                        setattr(owner, name, wrapper)
                        wrapped.append((owner, name, wrapper))
    finally:
        torch.random.set_rng_state(state)
    return wrapped


def merge(wrapped: list[tuple[Any, str, LoraLinear]]) -> None:
    """Add the updates to the weights and put the plain maps back."""
    with torch.no_grad():
        for owner, name, wrapper in wrapped:
            wrapper.base.weight += wrapper.update()
            setattr(owner, name, wrapper.base)
