"""Recovery: few parameters (PERP), low-rank updates (LoRA), or all weights; on text or distilled."""

from __future__ import annotations

import hashlib
import json
import math
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

from tokenprune.errors import RecipeError
from tokenprune.models.device import pick_dtype
from tokenprune.models.progress import SILENT, Reporter
from tokenprune.weights.journal import read_state, write_state
from tokenprune.weights.recovery.biases import with_biases
from tokenprune.weights.recovery.lora import merge, wrap
from tokenprune.weights.recovery.select import most_hurt
from tokenprune.weights.text import shuffled

if TYPE_CHECKING:
    import torch

_SAVE_EVERY = 25
Trained = Literal["perp", "lora", "full"]


@dataclass(frozen=True)
class Recovery:
    """How a pruned model is trained.

    Attributes:
        train: ``perp``: norms, biases, and masked LoRA (Zimmer et al. 2023, arXiv 2312.15230);
            ``lora``: LoRA alone (LLM-Pruner, arXiv 2305.11627); ``full``: all weights of the layers and
            norms.
        distill: The target is the dense model's distribution (KL, Minitron, Muralidharan et al. 2024, arXiv
            2407.14679, section 3), else the text.
        steps: Updates.
        batch: Windows an update.
        lr: Peak of the learning rate; it warms up over 5 % and falls as a cosine.
        rank: Of LoRA.
        alpha: Of LoRA.
        select: Share of the text that is trained on, the windows that pruning hurt most; 1: all.
        seed: Of the order of windows and of LoRA.
        biases: New biases are trained as well, where the class can hold them; see `prepare`.
        dtype: Number format of the products; weights and updates are float32 in any case. None: bfloat16
            where the hardware has it.
    """

    train: Trained = "perp"
    distill: bool = False
    steps: int = 200
    batch: int = 2
    lr: float = 5e-4
    rank: int = 8
    alpha: float = 16.0
    select: float = 1.0
    seed: int = 0
    biases: bool = False
    dtype: Literal["bfloat16", "float32"] | None = None

    def __post_init__(self) -> None:
        part_name(self.train)
        if self.biases and self.train == "lora":
            raise RecipeError("recovery: lora trains no biases: take perp or full, or leave biases out")
        if self.dtype not in (None, "bfloat16", "float32"):
            raise RecipeError(f"recovery: dtype must be bfloat16 or float32, not {self.dtype!r}")
        if min(self.steps, self.batch, self.rank) < 1 or not self.lr > 0 or not 0 < self.select <= 1:
            raise RecipeError(
                "recovery: steps, batch and rank must be 1 or more, lr above 0, select in (0, 1]"
            )

    @property
    def needs_dense(self) -> bool:
        """The dense model has to be there."""
        return self.distill or self.select < 1

    def describe(self) -> str:
        """Return settings in a few words."""
        taught = "distilled from the dense model" if self.distill else "on text"
        chosen = f", the {self.select:.0%} most hurt" if self.select < 1 else ""
        taught = "with new biases, " + taught if self.biases else taught
        return f"{self.train} {taught}{chosen}, {self.steps} steps of {self.batch} windows, lr {self.lr:g}"

    def prepare(self, model: Any) -> Any:
        """Return what `run` shall train: ``model``, or one that has new biases and computes the same."""
        return with_biases(model) if self.biases else model

    def run(
        self,
        model: Any,
        windows: torch.Tensor,
        dense: Any = None,
        checkpoint: Path | None = None,
        reporter: Reporter = SILENT,
    ) -> list[float]:
        """Train ``model`` in place; zeros in its matrices stay zero.

        Args:
            model: A pruned transformers decoder in float32.
            windows: Text, int64 [n, tokens].
            dense: The model before pruning; needed for ``distill`` and ``select``.
            checkpoint: File that is written every few steps and read again after a stop; removed at the end.
            reporter: Told of each step.

        Returns:
            The loss of each step that was run now.

        Raises:
            RecipeError: ``dense`` is missing or has other tokens, or the loss is not finite.
        """
        import torch

        if self.needs_dense and dense is None:
            raise RecipeError("this recovery needs the dense model: name it with --dense")
        if self.needs_dense and dense.config.vocab_size != model.config.vocab_size:
            raise RecipeError(
                f"the dense model has {dense.config.vocab_size} tokens, the pruned one "
                f"{model.config.vocab_size}: that is not the model it was made from (--dense)"
            )
        if self.select < 1:
            windows = most_hurt(model, dense, windows, self.select)
        wanted = [(p, p.requires_grad) for p in model.parameters()]
        wrapped = [] if self.train == "full" else wrap(model, self.rank, self.alpha, self.seed)
        losses: list[float] = []
        try:
            trained = self._choose(model)
            optimizer = torch.optim.AdamW(trained, lr=self.lr, weight_decay=0.0, betas=(0.9, 0.95))
            zeros = [None if (p != 0).all() or p.dim() < 2 else p == 0 for p in trained]
            if wrapped:
                zeros = [None] * len(trained)  # the updates are masked themselves, and B begins at zero
            mark = self._mark(windows, trained)
            first = 0
            if checkpoint is not None and checkpoint.exists():
                first = _restore(read_state(checkpoint, mark), trained, optimizer)
            reporter.stage("recovery", float(self.steps))
            reporter.update(first)
            for step in range(first, self.steps):
                for group in optimizer.param_groups:
                    group["lr"] = self.lr * self._pace(step)
                loss = self._loss(model, dense, windows[shuffled(self.seed, step, self.batch, len(windows))])
                value = float(loss.detach())
                if not math.isfinite(value):
                    raise RecipeError(
                        f"the loss is not finite at step {step}: lower the learning rate (--lr)"
                    )
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(trained, 1.0)
                optimizer.step()
                with torch.no_grad():
                    for parameter, zero in zip(trained, zeros, strict=True):
                        if zero is not None:
                            parameter.masked_fill_(zero, 0.0)
                losses.append(value)
                reporter.advance(1)
                if checkpoint is not None and (step + 1) % _SAVE_EVERY == 0:
                    write_state(checkpoint, mark, _state(step + 1, trained, optimizer))
        finally:
            merge(wrapped)
            for parameter, flag in wanted:
                parameter.requires_grad_(flag)
                parameter.grad = None
        if checkpoint is not None:
            with suppress(FileNotFoundError):
                checkpoint.unlink()
        return losses

    def _choose(self, model: Any) -> list[torch.Tensor]:
        model.requires_grad_(False)
        chosen = []
        for name, parameter in model.named_parameters():
            low_rank = name.endswith((".a", ".b"))
            small = parameter.dim() == 1 and parameter.numel()
            inside = ".layers." in name and not low_rank and parameter.numel()
            if low_rank or (self.train == "perp" and small) or (self.train == "full" and (inside or small)):
                chosen.append(parameter.requires_grad_(True))
        return chosen

    def _loss(self, model: Any, dense: Any, rows: torch.Tensor) -> torch.Tensor:
        import torch

        device = str(rows.device)
        wanted = pick_dtype(device, self.dtype)
        halved = torch.autocast(rows.device.type, wanted, enabled=wanted != torch.float32)
        with halved:
            logits = model(rows, use_cache=False).logits[:, :-1].flatten(0, 1)
        if not self.distill:
            return torch.nn.functional.cross_entropy(logits.float(), rows[:, 1:].flatten())
        with torch.no_grad(), halved:
            target = dense(rows, use_cache=False).logits[:, :-1].flatten(0, 1)
        return torch.nn.functional.kl_div(
            logits.float().log_softmax(-1),
            target.float().log_softmax(-1),
            reduction="batchmean",
            log_target=True,
        )

    def _pace(self, step: int) -> float:
        warm = max(1, self.steps // 20)
        if step < warm:
            return (step + 1) / warm
        return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, self.steps - warm)))

    def _mark(self, windows: torch.Tensor, trained: list[torch.Tensor]) -> str:
        """Tell runs apart: settings, text, and what is trained from which values."""
        digest = hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode())
        digest.update(windows.numpy().tobytes())
        for parameter in trained:
            digest.update(f"{tuple(parameter.shape)} {float(parameter.detach().double().sum()):.9e}".encode())
        return digest.hexdigest()


def part_name(text: str) -> Trained:
    """Return what a word says is trained; raises RecipeError for any other."""
    for name in get_args(Trained):
        if text == name:
            return cast(Trained, name)
    raise RecipeError(f"recovery cannot train {text!r}; it trains {', '.join(get_args(Trained))}")


def _state(step: int, trained: list[torch.Tensor], optimizer: Any) -> dict[str, Any]:
    return {"step": step, "trained": [p.detach() for p in trained], "optimizer": optimizer.state_dict()}


def _restore(state: dict[str, Any], trained: list[torch.Tensor], optimizer: Any) -> int:
    """Take over the state of a run; return the step to go on with."""
    import torch

    with torch.no_grad():
        for parameter, saved in zip(trained, state["trained"], strict=True):
            parameter.copy_(saved)
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])
