"""LoRAPrune: units go while low-rank updates are trained, judged by the gradients of those alone.

Zhang et al. 2023, arXiv 2305.18403. With W + s B A the change of s B A that a step of gradient descent would
make stands for the gradient of the weights, which is never computed (section 3.2):

    I = (s (dB A + B dA - dB dA) (W + s B A))^2

summed over what leaves with a unit, and averaged over steps, G = beta G + (1 - beta) I. More and more units
go as training goes on, by a cubic schedule (section 3.3); at the end the updates are merged.

Deviations: whole KV groups; the schedule ends after 70 % of the steps, so that the last steps only recover;
few steps on the calibration text.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from tokenprune.errors import RecipeError
from tokenprune.models.progress import SILENT, Reporter
from tokenprune.weights.journal import Journal
from tokenprune.weights.kept import Kept, LayerKept, Shape
from tokenprune.weights.recovery.lora import LoraLinear, merge, wrap
from tokenprune.weights.text import shuffled
from tokenprune.weights.units import UnitScores, coupled_sum

if TYPE_CHECKING:
    from tokenprune.weights.structured import UnitPruning

_SAVE_EVERY = 25
_UNTIL = 0.7  # of the steps: all that goes is gone
Wrapped = list[tuple[Any, str, LoraLinear]]


@dataclass(frozen=True)
class LoraImportance:
    """How units are learnt; stands where a criterion of units stands.

    Attributes:
        steps: Updates.
        every: Updates between prunings.
        batch: Windows an update.
        lr: Of AdamW.
        rank: Of the updates.
        alpha: s is alpha / rank.
        average: beta.
        seed: Of the order of windows and of the updates.
    """

    steps: int = 100
    every: int = 10
    batch: int = 2
    lr: float = 5e-4
    rank: int = 8
    alpha: float = 16.0
    average: float = 0.9
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.steps, self.every, self.batch, self.rank) < 1 or not self.lr > 0:
            raise RecipeError("lora-learn: steps, every, batch and rank must be 1 or more, lr above 0")
        if not 0 <= self.average < 1:
            raise RecipeError("lora-learn: average must be in [0, 1)")

    def run(
        self,
        model: Any,
        windows: torch.Tensor,
        how: UnitPruning,
        sparsity: float,
        reporter: Reporter = SILENT,
        journal: Journal | None = None,
    ) -> Kept:
        """Prune and train ``model`` in place; columns of o_proj and down_proj that went are zero.

        Args:
            model: A dense transformers decoder in float32.
            windows: Text to train on, int64 [n, tokens].
            how: Allocation, limits and costs.
            sparsity: Share of the decoder layers' cost that goes.
            reporter: Told of each step.
            journal: Keeps the state every few steps.

        Returns:
            What stays.

        Raises:
            RecipeError: The target cannot be met, or the loss is not finite.
        """
        journal = journal or Journal()
        shape = how.shape_of(model)
        wanted = [(p, p.requires_grad) for p in model.parameters()]
        model.requires_grad_(False)
        wrapped = wrap(model, self.rank, self.alpha, self.seed)
        kept = Kept.all_of(model.config)
        try:
            trained = [p for _, _, w in wrapped for p in (w.a, w.b)]
            optimizer = torch.optim.AdamW(trained, lr=self.lr, weight_decay=0.0)
            scores: list[UnitScores] | None = None
            first, state = 0, journal.get("lora")
            if state is not None:
                first, kept = state["step"], Kept.of_plain(state["kept"])
                scores = [UnitScores(*pair) for pair in state["scores"]]
                optimizer.load_state_dict(state["optimizer"])
                with torch.no_grad():
                    for parameter, saved in zip(trained, state["trained"], strict=True):
                        parameter.copy_(saved)
                clear(model, kept, shape)
            reporter.stage("training and pruning", float(self.steps))
            reporter.update(first)
            for step in range(first, self.steps):
                rows = windows[shuffled(self.seed, step, self.batch, len(windows))]
                optimizer.zero_grad(set_to_none=True)
                with torch.enable_grad():
                    loss = model(rows, labels=rows, use_cache=False).loss
                    loss.backward()
                if not math.isfinite(float(loss.detach())):
                    raise RecipeError(f"the loss is not finite at step {step}: give lora-learn a lower lr")
                scores = self._follow(scores, importances(model, shape))
                torch.nn.utils.clip_grad_norm_(trained, 1.0)
                optimizer.step()
                share = sparsity * self.progress(step)
                if share > 0 and ((step + 1) % self.every == 0 or step + 1 == self.steps):
                    there = zip(scores, kept.layers, strict=True)
                    left = [score.without(layer.kv_heads, layer.channels) for score, layer in there]
                    units = how.allocate(model, windows, left, share, shape)
                    kept = Kept(tuple(LayerKept(True, kv, True, channels) for kv, channels in units))
                clear(model, kept, shape)
                reporter.advance(1)
                if (step + 1) % _SAVE_EVERY == 0:
                    now = {
                        "step": step + 1,
                        "kept": kept.plain(),
                        "scores": [[score.kv, score.channels] for score in scores],
                        "trained": [p.detach() for p in trained],
                        "optimizer": optimizer.state_dict(),
                    }
                    journal.put("lora", now)
        finally:
            merge(wrapped)
            for parameter, flag in wanted:
                parameter.requires_grad_(flag)
                parameter.grad = None
        return kept

    def progress(self, step: int) -> float:
        """Return the share of the target that has to be gone after a step: 1 - (1 - t)^3."""
        last = max(1, round(self.steps * _UNTIL))
        return 1 - (1 - min(1.0, (step + 1) / last)) ** 3

    def _follow(self, before: list[UnitScores] | None, new: list[UnitScores]) -> list[UnitScores]:
        if before is None:
            return new
        beta = self.average
        return [
            UnitScores(beta * a.kv + (1 - beta) * b.kv, beta * a.channels + (1 - beta) * b.channels)
            for a, b in zip(before, new, strict=True)
        ]


def importance(update: LoraLinear) -> torch.Tensor:
    """Return I of each weight of a matrix [out, in], from the gradients of its update alone."""
    with torch.no_grad():
        a, b, da, db = update.a, update.b, update.a.grad, update.b.grad
        assert da is not None and db is not None
        step = update.scale * (db @ a + b @ da - db @ da)
        return (step * (update.base.weight + update.update())).square()


def importances(model: Any, shape: Shape) -> list[UnitScores]:
    """Return the importance of the units of each layer; one layer's matrices take memory at a time."""
    found = []
    for layer in model.model.layers:
        names = {
            name: importance(getattr(owner, name))
            for owner in (layer.self_attn, layer.mlp)
            for name, child in owner.named_children()
            if isinstance(child, LoraLinear)
        }
        found.append(coupled_sum(names, shape))
    return found


def clear(model: Any, kept: Kept, shape: Shape) -> None:
    """Zero the columns of o_proj and down_proj of units that went, and those of their updates."""
    from tokenprune.weights.structured import columns_of

    with torch.no_grad():
        for layer, stays in zip(model.model.layers, kept.layers, strict=True):
            parts = (
                (layer.self_attn.o_proj, columns_of(stays.kv_heads, shape)),
                (layer.mlp.down_proj, stays.channels),
            )
            for wrapper, columns in parts:
                gone = torch.ones(wrapper.a.shape[1], dtype=torch.bool)
                gone[list(columns)] = False
                wrapper.a[:, gone] = 0.0  # (B A)[:, gone] = B A[:, gone]
                wrapper.base.weight[:, gone] = 0.0
