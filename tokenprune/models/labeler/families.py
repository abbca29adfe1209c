"""The families of labelers that can be loaded; another one is a module with the same two functions.

A family is a module of this package with ``matches(config)``, which looks at a config.json without importing
anything heavy, and ``load(checkpoint, device, dtype)``, which makes a `Labeler` of a folder. `FAMILIES` names
them all.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, cast

from tokenprune.errors import ModelError
from tokenprune.models.labeler.checkpoint import Checkpoint, open_checkpoint
from tokenprune.models.labeler.labeler import Labeler

if TYPE_CHECKING:
    import torch

FAMILIES = ("mini", "open_provence", "xprovence", "provence")


class Family(Protocol):
    """What a module of `FAMILIES` offers."""

    def matches(self, config: dict[str, Any]) -> bool:
        """Tell whether a config.json is of this family."""
        ...

    def load(self, checkpoint: Checkpoint, device: str | None, dtype: str | torch.dtype | None) -> Labeler:
        """Make a labeler of a checkpoint.

        Raises:
            ModelError: it cannot be loaded.
        """
        ...


def load_labeler(name_or_path: str, device: str | None, dtype: str | torch.dtype | None) -> Labeler:
    """Find a checkpoint and load it with the family that knows it; see `Labeler.load`."""
    checkpoint = open_checkpoint(name_or_path)
    for name in FAMILIES:
        family = cast(Family, import_module(f"tokenprune.models.labeler.{name}"))
        if family.matches(checkpoint.config):
            return family.load(checkpoint, device, dtype)
    found = checkpoint.config.get("model_type") or "(none)"
    raise ModelError(
        f"{name_or_path!r} is not a sentence labeler: its config.json has the model_type {found!r}; known "
        "families: Provence (DeBERTa-v3), OpenProvence, XProvence, tokenprune_mini"
    )
