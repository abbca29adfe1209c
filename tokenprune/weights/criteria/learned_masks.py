"""MaskLLM for a CPU: N:M masks learnt end to end as categorical choices (Fang et al. 2024, arXiv 2409.17481).

Each group of M weights has a logit for every mask that keeps N of them. In training the mask of a group is a
Gumbel softmax over them: softmax((kappa pi + g) / tau), section 3.3. tau falls and kappa rises linearly, the
logits begin as a small normal noise plus a prior: sigma(pi) alpha sim(M0, S_i), and weights that stay are
rewarded, -lambda ||W o M||^2. At the end the likeliest mask is taken; weights are never changed.

Few windows are soon learnt by heart: a share of them is held back, every few steps the likeliest masks are
judged by the loss on those, and the best ones are taken, be it the prior's. Learning ends where it has not
helped for a while.

Deviations: a few layers are learnt at a time, in order, always with the loss of the whole model; layers
before them have their learnt masks, layers behind them those of the prior. The paper learns all at once, for
2,000 steps of 256 x 4,096 tokens with a learning rate of 5e-5; this takes fewer and larger steps. With 100
steps a block and no judge the loss of 20 windows of SmolLM2-135M falls, and that of any other text rises far
beyond the prior's.

Memory, besides the model: a copy of the matrices that are not learnt yet, and of the layers that are learnt
now 6 logits for 4 weights, four times (values, gradients, Adam's two), and about 4 numbers a weight that the
backward pass needs: near 40 bytes a weight, 0.85 GB for 6 layers of SmolLM2-135M and 4.3 GB for all of them.
The whole process took 3.5 GB at most with 6 layers and 2 windows of 256 tokens.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from tokenprune.errors import RecipeError
from tokenprune.models.progress import SILENT, Reporter
from tokenprune.weights.choose import Pattern
from tokenprune.weights.compensation.obs import Obs
from tokenprune.weights.criteria.base import ElementLearner
from tokenprune.weights.criteria.magnitude import Magnitude
from tokenprune.weights.criteria.sparsegpt import SparseGPT
from tokenprune.weights.criteria.wanda import Wanda
from tokenprune.weights.elements import ElementPruning
from tokenprune.weights.journal import Journal
from tokenprune.weights.sites import prunable
from tokenprune.weights.stream import Stream
from tokenprune.weights.text import shuffled

Tensors = Mapping[str, torch.Tensor]
_SAVE_EVERY = 25


@dataclass(frozen=True)
class LearnedMasks(ElementLearner):
    """How masks are learnt.

    Attributes:
        prior: Whose masks the learning begins with, or ``none``.
        strength: alpha, of the prior.
        layers: Layers that are learnt at a time.
        steps: Updates for each of these blocks.
        batch: Windows an update.
        lr: Of Adam.
        temperature: tau at the first and at the last step.
        scale: kappa at the first and at the last step.
        reward: lambda, of weights that stay.
        noise: Deviation of the logits at the beginning.
        held: Share of the windows that judges, rounded up; 0: none does, and the last masks are taken.
        every: Steps between two judgements.
        patience: Judgements in a row that may bring nothing before the learning of a block ends.
        seed: Of all randomness.
    """

    prior: Literal["none", "magnitude", "wanda", "sparsegpt"] = "wanda"
    strength: float = 3.0
    layers: int = 6
    steps: int = 40
    batch: int = 2
    lr: float = 1e-3
    temperature: Sequence[float] = (4.0, 0.05)
    scale: Sequence[float] = (100.0, 500.0)
    reward: float = 1e-5
    noise: float = 0.01
    held: float = 0.2
    every: int = 10
    patience: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        if self.prior not in ("none", "magnitude", "wanda", "sparsegpt"):
            raise RecipeError(
                f"learned-masks: prior is {self.prior!r}, must be none, magnitude, wanda or sparsegpt"
            )
        if min(self.layers, self.steps, self.batch) < 1 or not min(self.lr, self.noise) > 0:
            raise RecipeError("learned-masks: layers, steps and batch must be 1 or more, lr and noise over 0")
        if min(self.every, self.patience) < 1 or not 0 <= self.held < 1:
            raise RecipeError("learned-masks: every and patience must be 1 or more, held from 0 to below 1")
        if len(self.temperature) != 2 or len(self.scale) != 2 or min(*self.temperature, *self.scale) <= 0:
            raise RecipeError("learned-masks: temperature and scale are two numbers above 0, first and last")

    def run(
        self,
        model: Any,
        windows: torch.Tensor,
        pattern: Pattern,
        reporter: Reporter = SILENT,
        journal: Journal | None = None,
    ) -> None:
        """Prune ``model`` in place; see `ElementLearner`."""
        journal = journal or Journal()
        layers = list(model.model.layers)
        dense = [{n: p.detach().clone() for n, p in prunable(layer).items()} for layer in layers]
        prior = journal.once("prior", lambda: self._prior(model, windows, pattern, dense, reporter))
        wanted = [(p, p.requires_grad) for p in model.parameters()]
        model.requires_grad_(False)
        try:
            for layer, weights, masks in zip(layers, dense, prior, strict=True):
                _write(layer, {n: w if masks is None else w * masks[n] for n, w in weights.items()})
            stream = Stream(model, windows)
            for first in range(0, len(layers), self.layers):
                block = range(first, min(first + self.layers, len(layers)))
                done = journal.get(f"block-{first}")
                if done is None:
                    done = self._block(
                        model, stream, windows, block, dense, prior, pattern, reporter, journal
                    )
                    journal.put(f"block-{first}", done)
                    journal.forget(f"block-{first}-now")
                candidates = masks_of(pattern)
                for index, choices in zip(block, done, strict=True):
                    for name, weight in dense[index].items():
                        weight *= candidates[choices[name].long()].view_as(weight)
                    _write(layers[index], dense[index])
                    dense[index] = {}  # not needed any more
                    stream.advance(index)
        finally:
            for parameter, flag in wanted:
                parameter.requires_grad_(flag)

    def _prior(
        self, model: Any, windows: torch.Tensor, pattern: Pattern, dense: list[Any], reporter: Reporter
    ) -> list[dict[str, torch.Tensor] | None]:
        """Return the masks of another criterion, bool, True where weights stay; the model is spoilt by it."""
        if self.prior == "none":
            return [None] * len(dense)
        how = {
            "magnitude": ElementPruning(Magnitude(), pattern),
            "wanda": ElementPruning(Wanda(), pattern),
            "sparsegpt": ElementPruning(SparseGPT(), pattern, Obs()),
        }[self.prior]
        stays: dict[int, torch.Tensor] = {}
        how.run(
            model,
            windows,
            [pattern.sparsity] * len(dense),
            reporter=reporter,
            see=lambda weight, gone: stays.update({weight.data_ptr(): ~gone}),
        )
        found: list[dict[str, torch.Tensor] | None] = []
        for layer in model.model.layers:
            masks = {}
            for name, p in prunable(layer).items():
                # one parameter may hold the matrices of all experts
                parts = [stays[part.data_ptr()] for part in (p.data if p.dim() == 3 else p.data[None])]
                masks[name] = torch.stack(parts) if p.dim() == 3 else parts[0]
            found.append(masks)
        return found

    def _block(
        self,
        model: Any,
        stream: Stream,
        windows: torch.Tensor,
        block: range,
        dense: list[Any],
        prior: list[Any],
        pattern: Pattern,
        reporter: Reporter,
        journal: Journal,
    ) -> list[dict[str, torch.Tensor]]:
        """Learn a block; return for each layer parameter name -> number of the mask of each group, uint8."""
        weights = {f"{i}/{name}": w for i in block for name, w in dense[i].items()}
        masks = {key: None if prior[block[0]] is None else _of(key, prior) for key in weights}

        judges = min(math.ceil(self.held * len(windows)), len(windows) - 1)
        taught = len(windows) - judges

        def loss_of(now: Tensors, rows: torch.Tensor) -> torch.Tensor:
            hidden = stream.hidden[rows]
            for index in range(block[0], len(model.model.layers)):
                own = {name: now[f"{index}/{name}"] for name in dense[index]} if index in block else {}
                hidden = stream.call(index, hidden, own)
            logits = model.lm_head(model.model.norm(hidden))[:, :-1].flatten(0, 1)
            return torch.nn.functional.cross_entropy(logits, windows[rows][:, 1:].flatten())

        def loss(now: Tensors, step: int) -> torch.Tensor:
            return loss_of(now, shuffled(self.seed, step, self.batch, taught))

        def judge(now: Tensors) -> float:
            rows = torch.arange(taught, len(windows))
            return sum(float(loss_of(now, row[None])) for row in rows) / len(rows)

        label = f"masks of layers {block[0] + 1} to {block[-1] + 1}"
        chosen = self.learn(
            weights,
            masks,
            loss,
            pattern,
            block[0],
            reporter,
            label,
            journal,
            f"block-{block[0]}-now",
            judge if judges else None,
        )
        return [{name: chosen[f"{i}/{name}"] for name in dense[i]} for i in block]

    def learn(
        self,
        weights: Tensors,
        prior: Mapping[str, torch.Tensor | None],
        loss: Callable[[Tensors, int], torch.Tensor],
        pattern: Pattern,
        salt: int = 0,
        reporter: Reporter = SILENT,
        label: str = "masks",
        journal: Journal | None = None,
        place: str = "now",
        judge: Callable[[Tensors], float] | None = None,
    ) -> dict[str, torch.Tensor]:
        """Learn the masks of some matrices.

        Args:
            weights: name -> [..., in], dense.
            prior: name -> mask to begin with [..., in], or None.
            loss: What masked weights lose at a step.
            pattern: N:M.
            salt: Makes the randomness that of this block.
            reporter: Told of each step.
            label: Says what is learnt.
            journal: Keeps the state of the learning every few steps.
            place: Under this name.
            judge: What masked weights are worth, less is better; None: the last masks are taken.

        Returns:
            name -> number of the mask of each group among `masks_of`, uint8 [groups].

        Raises:
            RecipeError: The loss is not finite.
        """
        journal = journal or Journal()
        candidates = masks_of(pattern)
        logits = {}
        for number, (name, weight) in enumerate(weights.items()):
            chance = self._random(salt, -1 - number)
            start = torch.randn(weight.numel() // pattern.of, len(candidates), generator=chance) * self.noise
            mask = prior[name]
            if mask is not None:
                alike = mask.reshape(-1, pattern.of).float() @ candidates.T
                start += start.std() * self.strength * (alike - alike.mean(1, keepdim=True))
            logits[name] = start.requires_grad_(True)
        optimizer = torch.optim.Adam(logits.values(), lr=self.lr)
        first = 0
        found = journal.get(place)
        best = _Best(judge, weights, candidates)
        if found is not None:
            first = int(found["step"])
            best.value, best.chosen, best.waits = found["value"], found["chosen"], int(found["waits"])
            optimizer.load_state_dict(found["optimizer"])
            with torch.no_grad():
                for name, value in logits.items():
                    value.copy_(found["logits"][name])
        else:
            best.look({name: _number_of(prior[name], logits[name], candidates) for name in weights})
        reporter.stage(label, float(self.steps))
        reporter.update(first)
        for step in range(first, self.steps):
            part = step / max(1, self.steps - 1)
            tau, kappa = (a + (b - a) * part for a, b in (self.temperature, self.scale))
            chance = self._random(salt, step)
            with torch.enable_grad():
                now = {}
                for name, weight in weights.items():
                    noise = torch.empty(logits[name].shape).exponential_(generator=chance).log_()
                    soft = ((kappa * logits[name] - noise) / tau).softmax(-1)  # -noise is Gumbel's
                    now[name] = weight * (soft @ candidates).view_as(weight)
                value = loss(now, step)
                total = value - self.reward * sum(w.square().sum() for w in now.values())
            if not math.isfinite(float(value.detach())):
                raise RecipeError(f"the loss is not finite at step {step} of the {label}")
            optimizer.zero_grad(set_to_none=True)
            total.backward()
            optimizer.step()
            reporter.advance(1)
            if (step + 1) % self.every == 0 or step + 1 == self.steps:
                best.look({name: value.detach().argmax(-1).to(torch.uint8) for name, value in logits.items()})
                if best.waits >= self.patience:
                    break
            if (step + 1) % _SAVE_EVERY == 0:
                state = {
                    "step": step + 1,
                    "logits": {n: v.detach() for n, v in logits.items()},
                    "optimizer": optimizer.state_dict(),
                    "value": best.value,
                    "chosen": best.chosen,
                    "waits": best.waits,
                }
                journal.put(place, state)
        return best.chosen

    def _random(self, salt: int, step: int) -> torch.Generator:
        return torch.Generator().manual_seed(((self.seed * 4099 + salt) * 65537 + step) % 2**63)


@dataclass
class _Best:
    """The masks that were judged best; without a judge those that were looked at last."""

    judge: Callable[[Tensors], float] | None
    weights: Tensors
    candidates: torch.Tensor
    value: float = math.inf
    chosen: dict[str, torch.Tensor] = field(default_factory=dict)
    waits: int = 0  # judgements since the best

    def look(self, chosen: dict[str, torch.Tensor]) -> None:
        """Judge masks, name -> number of the mask of each group, uint8 [groups]."""
        if self.judge is None:
            self.chosen = chosen
            return
        with torch.no_grad():
            value = self.judge(
                {n: w * self.candidates[chosen[n].long()].view_as(w) for n, w in self.weights.items()}
            )
        self.waits += 1
        if value < self.value or not self.chosen:
            self.value, self.chosen, self.waits = value, chosen, 0


def _number_of(mask: torch.Tensor | None, logits: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
    """Return the numbers of a prior's masks, or of the likeliest ones without a prior, uint8 [groups]."""
    if mask is None:
        return logits.detach().argmax(-1).to(torch.uint8)
    width = candidates.shape[1]
    return (mask.reshape(-1, width).float() @ candidates.T).argmax(-1).to(torch.uint8)


def masks_of(pattern: Pattern) -> torch.Tensor:
    """Return all masks that keep N of M, float32 [masks, M]; 2:4 has six."""
    rows = itertools.combinations(range(pattern.of), pattern.kept)
    return torch.tensor([[float(i in row) for i in range(pattern.of)] for row in rows])


def _of(key: str, prior: list[Any]) -> torch.Tensor:
    index, _, name = key.partition("/")
    found: torch.Tensor = prior[int(index)][name]
    return found


def _write(layer: Any, weights: Tensors) -> None:
    own = prunable(layer)
    with torch.no_grad():
        for name, weight in weights.items():
            own[name].copy_(weight)
