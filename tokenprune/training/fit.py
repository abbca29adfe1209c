"""The training loop of the small labeler: two stages, averaged weights, checkpoints to go on from."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tokenprune.errors import ConfigError
from tokenprune.folders import whole_file
from tokenprune.models.labeler.mini import window
from tokenprune.models.labeler.mini_network import MiniNetwork
from tokenprune.training.loss import LossWeights, collect, loss
from tokenprune.training.mixture import epoch
from tokenprune.training.sets import Item
from tokenprune.training.windows import Question, Row, WindowMaker, batch, steps

logger = logging.getLogger(__name__)

_CHUNK_TOKENS = 2048  # of one forward pass; windows of like length go together


@dataclass(frozen=True)
class Recipe:
    """How a model is trained.

    First what judges the token states learns alone, on a frozen encoder; its random start would otherwise
    pull the encoder away from what it knows. Then all layers in which question and passage meet learn with
    it, at a rate that falls to nothing as a half cosine. Evaluation and the result are of the average of the
    weights over the steps.

    Args:
        steps: of the second stage.
        head_steps: of the first.
        tokens: of a step, at least; a question's windows stay together.
        encoder_rate: peak learning rate of the encoder.
        head_rate: of everything else, in the second stage; three times that in the first.
        cross_rate: of the attention biases between question and passage.
        warmup: steps in which the second stage's rates rise.
        decay: of the average of the weights, per step.
        weight_decay: of matrices.
        clip: largest norm of the gradient.
        seed: of the order of the data and the dropout.
        evaluate_every: steps between evaluations.
        patience: evaluations of the second stage without a better one after which the run ends.
        loss: weights of the terms.
    """

    steps: int = 1500
    head_steps: int = 200
    tokens: int = 4200
    encoder_rate: float = 6e-5
    head_rate: float = 4e-4
    cross_rate: float = 0.02
    warmup: int = 50
    decay: float = 0.997
    weight_decay: float = 0.01
    clip: float = 1.0
    seed: int = 0
    evaluate_every: int = 250
    patience: int = 4
    loss: LossWeights = field(default_factory=LossWeights)

    def __post_init__(self) -> None:
        for name in ("tokens", "warmup", "evaluate_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be 1 or more")


@dataclass
class Progress:
    """Where a run is; all that a checkpoint needs beside the weights."""

    step: int = 0
    epoch: int = 0
    taken: int = 0  # questions of the epoch
    best: float = -math.inf
    best_step: int = 0


class Fit:
    """A run in a folder: ``last.pt`` to go on from, ``best.pt`` the averaged weights of the best evaluation.

    Args:
        network: where the run begins.
        maker: reads questions.
        recipe: how.
        folder: made when absent; a checkpoint there of the same recipe and sizes is
            taken up; what came after the last evaluation is done again.

    Raises:
        ConfigError: the folder has a checkpoint of another recipe.
    """

    def __init__(self, network: MiniNetwork, maker: WindowMaker, recipe: Recipe, folder: Path) -> None:
        """Begin or take up a run."""
        self.network, self.maker, self.recipe, self.folder = network, maker, recipe, folder
        self.device = next(network.parameters()).device
        self.progress = Progress()
        torch.manual_seed(recipe.seed)
        for part in (
            network.words,
            network.places,
            network.norm,
            network.layers[: network.config.cross_from],
        ):
            part.requires_grad_(False)
        self._upper = network.layers[network.config.cross_from :]
        self.average = {k: v.detach().clone() for k, v in network.state_dict().items()}
        self.optimizer = torch.optim.AdamW(self._groups(), weight_decay=0.0)
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / "last.pt").exists():
            self._take_up()

    def run(self, items: Sequence[Item], evaluate: Callable[[MiniNetwork], float]) -> Progress:
        """Train to the last step, or until ``evaluate`` finds no better for ``patience`` times.

        Args:
            items: training items of all sets.
            evaluate: gives the figure to be as high as possible; called with the averaged weights.
        """
        r, p = self.recipe, self.progress
        last = r.head_steps + r.steps
        began, tokens, sums = time.monotonic(), 0, dict.fromkeys(("loss", *asdict(r.loss)), 0.0)
        for questions in self._data(items):
            if p.step >= last:
                break
            if p.step - max(p.best_step, r.head_steps) >= r.patience * r.evaluate_every:
                logger.info("no better for %d evaluations: stopped", r.patience)
                break
            terms = self._step(questions)
            p.step += 1
            p.taken += len(questions)
            for name, value in terms.items():
                sums[name] += value
            tokens += sum(len(row.ids) for q in questions for row in q.rows)
            if p.step % 25 == 0:
                rate = tokens / (time.monotonic() - began)
                means = " ".join(f"{name} {value / 25:.3f}" for name, value in sums.items())
                logger.info("step %d: %s, %.0f tokens/s", p.step, means, rate)
                began, tokens, sums = time.monotonic(), 0, dict.fromkeys(sums, 0.0)
            if p.step % r.evaluate_every == 0 or p.step == last:
                self._evaluated(evaluate)
                began, tokens = time.monotonic(), 0
        return p

    def _step(self, questions: Sequence[Question]) -> dict[str, float]:
        r = self.recipe
        self._set_rates()
        self.network.train()
        rows = [row for q in questions for row in q.rows]
        said = collect([self._chunk(rows, numbers) for numbers in chunks(rows)], len(rows))
        total, terms = loss(said, questions, r.loss)
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        learning = [p for g in self.optimizer.param_groups for p in g["params"] if p.grad is not None]
        torch.nn.utils.clip_grad_norm_(learning, r.clip)
        self.optimizer.step()
        # An average over 1/(1-decay) steps, and over all of them as long as there are fewer.
        decay = min(r.decay, (1 + self.progress.step) / (10 + self.progress.step))
        with torch.no_grad():
            for name, value in self.network.state_dict().items():
                if value.is_floating_point():
                    self.average[name].lerp_(value, 1 - decay)
        return {"loss": float(total.detach()), **terms}

    def _chunk(self, rows: Sequence[Row], numbers: Sequence[int]) -> tuple[Sequence[int], Any, Tensor]:
        seen = window(batch([rows[n] for n in numbers], self.maker.reader.pad), str(self.device))
        return numbers, self.network(seen), seen.sentence

    def _groups(self) -> list[dict[str, Any]]:
        upper = {id(p) for p in self._upper.parameters()}
        others = [
            p
            for p in self.network.parameters()
            if p.requires_grad and id(p) not in upper and p is not self.network.cross
        ]
        r = self.recipe
        parts = [
            ("encoder", list(self._upper.parameters()), r.encoder_rate),
            ("cross", [self.network.cross], r.cross_rate),
            ("head", others, r.head_rate),
        ]
        groups = []
        for name, parameters, rate in parts:
            for decays in (True, False):
                own = [p for p in parameters if (p.dim() == 2) == decays]
                decay = r.weight_decay if decays else 0.0
                groups.append({"params": own, "rate": rate, "name": name, "weight_decay": decay})
        return [g for g in groups if g["params"]]

    def _set_rates(self) -> None:
        r = self.recipe
        at = self.progress.step - r.head_steps
        factor = min(1.0, (at + 1) / r.warmup) * 0.5 * (1 + math.cos(math.pi * max(0, at) / max(1, r.steps)))
        frozen = at < 0
        for group in self.optimizer.param_groups:
            head = group["name"] == "head"
            group["lr"] = (3 * group["rate"] if head else 0.0) if frozen else factor * group["rate"]
            if not head:
                for p in group["params"]:
                    p.requires_grad_(not frozen)

    def _data(self, items: Sequence[Item]) -> Iterator[list[Question]]:
        p = self.progress
        for number in count(p.epoch):
            skip = p.taken if number == p.epoch else 0
            if number != p.epoch:
                p.epoch, p.taken = number, 0
            made = map(self.maker.make, epoch(items, number, self.recipe.seed))
            readable = (question for question in made if question.rows)
            found = False
            for step in steps(islice(readable, skip, None), self.recipe.tokens):
                found = True
                yield step
            if not found and not skip:
                raise ConfigError(f"all items together make no step of {self.recipe.tokens} tokens")

    def _evaluated(self, evaluate: Callable[[MiniNetwork], float]) -> None:
        p = self.progress
        averaged = MiniNetwork(self.network.config).to(self.device)
        averaged.load_state_dict(self.average)
        figure = evaluate(averaged.eval())
        logger.info("step %d: validation %.4f (best %.4f at %d)", p.step, figure, p.best, p.best_step)
        if figure > p.best:
            p.best, p.best_step = figure, p.step
            self._save("best.pt", {"network": self.average, "step": p.step, "validation": figure})
        self._save(
            "last.pt",
            {
                "network": self.network.state_dict(),
                "average": self.average,
                "optimizer": self.optimizer.state_dict(),
                "progress": asdict(p),
                "recipe": self._recipe(),
                "rng": torch.get_rng_state(),
                "rng_of_devices": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            },
        )

    def _recipe(self) -> str:
        whole = asdict(self.recipe) | self.network.config.to_dict() | {"max_length": self.maker.max_length}
        return json.dumps(whole, sort_keys=True)

    def _save(self, name: str, state: dict[str, Any]) -> None:
        with whole_file(self.folder / name) as half:  # a killed run must not leave half a checkpoint
            torch.save(state, half)

    def _take_up(self) -> None:
        state = torch.load(self.folder / "last.pt", map_location=self.device, weights_only=True)
        if state["recipe"] != self._recipe():
            raise ConfigError(f"{self.folder} holds a run of another recipe: give another folder")
        self.network.load_state_dict(state["network"])
        self.average = state["average"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.progress = Progress(**state["progress"])
        torch.set_rng_state(state["rng"].cpu())
        if state["rng_of_devices"] and torch.cuda.is_available():
            torch.cuda.set_rng_state_all([s.cpu() for s in state["rng_of_devices"]])
        logger.info("taken up at step %d", self.progress.step)


def chunks(rows: Sequence[Row], tokens: int = _CHUNK_TOKENS) -> list[list[int]]:
    """Group windows of like length, at most ``tokens`` padded tokens together."""
    order = np.argsort([-len(r.ids) for r in rows], kind="stable").tolist()
    out: list[list[int]] = []
    width = 0
    for n in order:
        if not out or (len(out[-1]) + 1) * width > tokens:
            out.append([])
            width = len(rows[n].ids)
        out[-1].append(n)
    return out
