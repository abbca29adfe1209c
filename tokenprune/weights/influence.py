"""How far a layer moves the hidden states: block influence and its relatives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tokenprune.models.progress import SILENT, Reporter
from tokenprune.weights.stream import Stream

if TYPE_CHECKING:
    import torch


def similarities(model: Any, windows: torch.Tensor, reporter: Reporter = SILENT) -> list[float]:
    """Return the mean cosine of what enters and what leaves each layer, over all tokens.

    Block influence (ShortGPT, arXiv 2403.03853, eq. 1) is one less this.
    """
    import torch

    stream = Stream(model, windows)
    found = []
    reporter.stage("influence of layers", float(len(stream.layers)))
    for index in range(len(stream.layers)):
        before = stream.hidden
        stream.advance(index)
        found.append(float(torch.cosine_similarity(before, stream.hidden, dim=-1).double().mean()))
        reporter.advance(1)
    return found
