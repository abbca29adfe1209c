"""Gradients of the language-model loss, sample by sample; these take memory of the whole model, twice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tokenprune.models.progress import SILENT, Reporter
from tokenprune.weights.sites import matrices

if TYPE_CHECKING:
    import torch

PerLayer = list[dict[str, "torch.Tensor"]]


def gradients(model: Any, windows: torch.Tensor, reporter: Reporter = SILENT) -> tuple[PerLayer, PerLayer]:
    """Return for every matrix of every layer the sum over windows of gradients, and of their squares.

    Args:
        model: A transformers decoder; its weights stay, its ``grad`` fields are cleared.
        windows: int64 [n, tokens]; each is a sample, its loss a mean over its tokens.
        reporter: Told of each window.
    """
    import torch

    names = [
        {data.data_ptr(): name for name, data in matrices(layer).items()} for layer in model.model.layers
    ]
    total: PerLayer = [{} for _ in names]
    squares: PerLayer = [{} for _ in names]
    wanted = [p.requires_grad for p in model.parameters()]
    model.requires_grad_(False)
    model.model.layers.requires_grad_(True)
    reporter.stage("gradients", float(len(windows)))
    try:
        with torch.enable_grad():
            for row in windows:
                # checkpointing is not worth it for one window; embeddings need no gradient
                model(row[None], labels=row[None], use_cache=False).loss.backward()
                for index, layer in enumerate(model.model.layers):
                    _collect(layer, names[index], total[index], squares[index])
                reporter.advance(1)
    finally:
        for parameter, flag in zip(model.parameters(), wanted, strict=True):
            parameter.requires_grad_(flag)
    return total, squares


def _collect(
    layer: Any, names: dict[int, str], total: dict[str, torch.Tensor], squares: dict[str, torch.Tensor]
) -> None:
    import torch

    for parameter in layer.parameters():
        # one parameter may hold the matrices of all experts
        parts = parameter.data if parameter.dim() == 3 else parameter.data[None]
        grads = parameter.grad
        for index, part in enumerate(parts):
            name = names.get(part.data_ptr())
            if name is None:
                continue
            if grads is None:  # an expert layer that no token visited
                grad = torch.zeros_like(part)
            else:
                grad = (grads if parameter.dim() == 3 else grads[None])[index]
            if name not in total:
                total[name], squares[name] = grad.clone(), grad.square()
            else:
                total[name] += grad
                squares[name].addcmul_(grad, grad)
        parameter.grad = None
