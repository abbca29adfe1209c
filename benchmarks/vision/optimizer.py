"""Muon for the matrices of a transformer's layers, Adam for everything else."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonal(gradients: Tensor, steps: int = 5) -> Tensor:
    """Return the nearest semi-orthogonal matrices of a batch [b, rows, columns], by Newton-Schulz iteration.

    Keller Jordan's quintic (https://kellerjordan.github.io/posts/muon/), in float32: torch's own works in
    bfloat16, which processors without it emulate slowly.
    """
    a, b, c = _COEFFICIENTS
    tall = gradients.shape[1] > gradients.shape[2]
    x = gradients.mT if tall else gradients
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Momentum whose steps are orthogonal; their size is that of a usual Adam step (Moonlight: 0.2 rms)."""

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, decay: float, momentum: float = 0.95):
        super().__init__(parameters, {"lr": lr, "decay": decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[tuple[nn.Parameter, Tensor]]] = {}
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                buffer = state.setdefault("momentum", torch.zeros_like(parameter))
                buffer.lerp_(parameter.grad, 1 - group["momentum"])
                update = parameter.grad.lerp(buffer, group["momentum"])
                by_shape.setdefault(parameter.shape, []).append((parameter, update))
            for shape, pairs in by_shape.items():
                size = 0.2 * max(shape) ** 0.5
                for (parameter, _), update in zip(
                    pairs, orthogonal(torch.stack([u for _, u in pairs])), strict=True
                ):
                    parameter.mul_(1 - group["lr"] * group["decay"])
                    parameter.add_(update, alpha=-group["lr"] * size)


class Both:
    """The two optimizers of a module, stepped, scheduled and stored together.

    Args:
        modules: whose parameters are trained.
        lr: Adam's peak rate.
        lift: how many times as high Muon's is.
        decay: of Muon's matrices.
    """

    def __init__(self, modules: Iterable[nn.Module], lr: float, lift: float = 1.0, decay: float = 0.02):
        matrices, others = [], []
        for module in modules:
            for name, parameter in module.named_parameters():
                inner = parameter.ndim == 2 and ".layers." in f".{name}"
                (matrices if inner else others).append(parameter)
        self.parameters = [*matrices, *others]
        self._parts: list[torch.optim.Optimizer] = [torch.optim.Adam(others, lr, betas=(0.9, 0.98))]
        if matrices:
            self._parts.insert(0, Muon(matrices, lr * lift, decay))
        self._peaks = [part.defaults["lr"] for part in self._parts]

    def step(self, share: float) -> None:
        """Clip, step at ``share`` of the peak rate, clear the gradients."""
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for part, peak in zip(self._parts, self._peaks, strict=True):
            for group in part.param_groups:
                group["lr"] = peak * share
            part.step()
            part.zero_grad()

    def state_dict(self) -> list[dict[str, Any]]:
        return [part.state_dict() for part in self._parts]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        for part, state in zip(self._parts, states, strict=True):
            part.load_state_dict(state)


def warm_then_cosine(step: int, steps: int, warm: int = 100) -> float:
    """Return the share of the peak learning rate."""
    if step < warm:
        return (step + 1) / warm
    at = (step - warm) / max(1, steps - warm)
    return 0.02 + 0.98 * 0.5 * float(1 + torch.cos(torch.tensor(at * torch.pi)))
