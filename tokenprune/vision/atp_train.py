"""Training of an ATP module on a frozen LLaVA-type model: the answers shall stay, at a mean count of tokens.

    loss = cross entropy of the answers + budget_weight |N - target| / n
           + depth_weight mean_l (N_l / n) (l / L)

N_l is how many visual tokens layer l of L sees, N their mean over all layers, n the tokens of the prompt's
pictures: ATP-LLaVA (arXiv 2412.00447, section 3.3) in relative numbers; its mean may be over the ATP layers
only, which could not be looked up. Counts are those of hard decisions with the gradients of the soft masks
(straight through), also ours: sums of soft masks meet a target that the decisions of use then miss. A layer
behind a mask adds the mask's logarithm to the attention logits of each visual token, so that a mask of 0 is a
token that is not there. Scores are not differentiated through: a mask is moved by its thresholds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from tokenprune.engine.decoder import Decoder
from tokenprune.engine.prompt import Prompt, embedded
from tokenprune.errors import ConfigError
from tokenprune.vision.atp import ATPConfig, ATPModule, hidden_from_all
from tokenprune.vision.methods.atp_llava import asking

if TYPE_CHECKING:
    from PIL.Image import Image

    from tokenprune.vision.engine import VisionEngine
    from tokenprune.vision.methods.base import VisionMethod

T = TypeVar("T")
# (images, question, answer)
Example = tuple[Sequence["Image"], str, str]


@dataclass(frozen=True, slots=True)
class ATPTraining:
    """How to train.

    Attributes:
        target: Mean visual tokens over all layers, as a share of the prompt's, in (0, 1].
        steps: Updates.
        batch: Prompts per update.
        rate: Learning rate of AdamW, falling to 0 along a cosine.
        budget_weight: Of the distance from the target.
        depth_weight: Of deep layers that see many tokens.
        seed: Of the heads' weights.
    """

    target: float = 0.25
    steps: int = 300
    batch: int = 8
    rate: float = 3e-3
    budget_weight: float = 3.0
    depth_weight: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: A value outside its range.
        """
        if not 0 < self.target <= 1 or self.steps < 1 or self.batch < 1 or self.rate <= 0:
            raise ConfigError("target must lie in (0, 1], steps, batch and rate above 0")


@dataclass(frozen=True, slots=True)
class Lesson:
    """A prompt and what should follow.

    Attributes:
        prompt: With its visual tokens; at least one, and text behind them.
        answer: Tokens of the answer, at least one.
    """

    prompt: Prompt
    answer: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Soft:
    """What a batch gives under soft masks.

    Attributes:
        answer_loss: Cross entropy of the answers' tokens, mean.
        shares: [layers, b], share of its visual tokens that each layer sees of each prompt; the values are
            those of hard decisions, the gradients those of soft masks.
        logits: float32 [b, n, vocabulary].
    """

    answer_loss: Tensor
    shares: Tensor
    logits: Tensor

    def loss(self, how: ATPTraining) -> Tensor:
        """Return the loss of the module's text."""
        depth = len(self.shares)
        deep = torch.arange(depth, device=self.shares.device) / depth
        mean = self.shares.mean()
        budget = (mean - how.target).abs()
        return (
            self.answer_loss
            + how.budget_weight * budget
            + how.depth_weight * (self.shares.mean(1) * deep).mean()
        )


def train_atp(
    engine: VisionEngine,
    examples: Iterable[Example],
    config: ATPConfig | None = None,
    how: ATPTraining | None = None,
    *,
    method: VisionMethod | None = None,
    keep: int | float | None = None,
    log: Callable[[int, float, float], None] | None = None,
) -> ATPModule:
    """Train a module for the model of ``engine`` in its chat template.

    Args:
        engine: The model, in float32; it is not changed.
        examples: Images, question and answer; read again from the start when they end (a list, not a
            generator, unless that is endless), and encoded anew each time.
        config: What to train; None: the defaults for this model.
        how: How; None: the defaults.
        method: Prunes before the language model already, as it will in use.
        keep: For the method.
        log: Called behind each update with its number, the loss and the mean share of visual tokens.

    Raises:
        ConfigError: There are no examples, or no more of them; or the target is less than what the layers
            see that no decision precedes.
    """
    model = engine.engine.lm

    def lesson(example: Example) -> Lesson:
        images, question, answer = example
        prompt = engine.see(engine.chat(question, len(images)), images, method=method, keep=keep).prompt
        ids = [*model.tokenizer(answer, add_special_tokens=False)["input_ids"], *sorted(model.eos_ids)[:1]]
        return Lesson(prompt, tuple(ids))

    return _train(model.model, _again(examples, lesson), config, how, log)


def train_on(
    model: Any,
    lessons: Iterable[Lesson],
    config: ATPConfig | None = None,
    how: ATPTraining | None = None,
    *,
    log: Callable[[int, float, float], None] | None = None,
) -> ATPModule:
    """Train a module on prompts that are made already; see :func:`train_atp`."""
    return _train(model, _again(lessons, lambda lesson: lesson), config, how, log)


def _again(items: Iterable[T], make: Callable[[T], Lesson]) -> Iterator[Lesson]:
    """Make a lesson of each item, again and again; end when a pass has none."""
    some = True
    while some:
        some = False
        for item in items:
            some = True
            yield make(item)


def _train(
    model: Any,
    lessons: Iterator[Lesson],
    config: ATPConfig | None,
    how: ATPTraining | None,
    log: Callable[[int, float, float], None] | None,
) -> ATPModule:
    how = how or ATPTraining()
    decoder = Decoder(model)
    config = config or ATPConfig(decoder.depth, decoder.hidden)
    least = (config.layers[0] + 1) / config.depth
    if how.target <= least:
        raise ConfigError(
            f"a target of {how.target:g} cannot be met: the layers up to the first decision, number "
            f"{config.layers[0]}, see all tokens, which is {least:.3f} of them in the mean over "
            f"{config.depth} layers; ask for more, or prune before the language model too (method, keep)"
        )
    torch.manual_seed(how.seed)
    module = ATPModule(config)
    module.to(decoder.device).train()
    optimiser = torch.optim.AdamW(module.parameters(), lr=how.rate, weight_decay=0.01)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, how.steps)
    with _frozen(model):
        for step in range(1, how.steps + 1):
            batch = list(islice(lessons, how.batch))
            if not batch:
                raise ConfigError(
                    f"there are no examples for update {step} of {how.steps}: give a list of them"
                )
            soft = soft_forward(model, decoder, module, batch)
            loss = soft.loss(how)
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            optimiser.step()
            falling.step()
            if log is not None:
                log(step, float(loss.detach()), float(soft.shares.detach().mean()))
    module.eval()
    return module


def soft_forward(model: Any, decoder: Decoder, module: ATPModule, batch: Sequence[Lesson]) -> Soft:
    """Run the language model of ``model`` with soft masks; gradients reach the module only.

    Args:
        model: The transformers model; :func:`train_on` has set its attention to ``eager``.
        decoder: Shares its weights.
        module: Decides.
        batch: Prompts with their answers.
    """
    body = model.model.language_model
    rows = _Batch(decoder, batch)
    hidden, positions = rows.hidden, rows.positions
    turn = body.rotary_emb(hidden, positions)
    rotary = decoder.rotary(positions.flatten())
    batch_size, size = positions.shape
    every = torch.arange(batch_size * size, device=hidden.device)
    causal = hidden_from_all(torch.ones(size, size, dtype=torch.bool, device=hidden.device).tril())
    weight, stays, shares = rows.weight, rows.visual, []
    total = rows.visual.sum(1)
    for number, layer in enumerate(body.layers):
        soft = (weight.exp() * rows.visual).sum(1) / total
        shares.append(stays.sum(1) / total + soft - soft.detach())
        before = hidden.detach()
        mask = (causal + weight[:, None])[:, None].to(hidden.dtype)
        out = layer(hidden, attention_mask=mask, position_ids=positions, position_embeddings=turn)
        hidden = out if isinstance(out, Tensor) else out[0]
        if number not in module.config.layers:
            continue
        with torch.no_grad():
            query, keys = decoder.query_and_keys(number, before.flatten(0, 1), rotary, every)
        margin = module(
            number,
            hidden.detach(),
            query.unflatten(1, (batch_size, size)).transpose(0, 1),
            keys.unflatten(1, (batch_size, size)).transpose(0, 1),
            decoder.weights.scale,
            visual=rows.visual,
            asking=rows.asking,
            places=rows.places,
            weight=weight.detach(),
        )
        weight = weight + torch.where(rows.visual, margin.log_mask(module.config.temperature), 0.0)
        stays = stays & (margin.margin > 0)
    logits = model.lm_head(body.norm(hidden)).float()
    wanted = rows.labels[:, 1:]
    answer_loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), wanted.flatten(), ignore_index=-100)
    return Soft(answer_loss, torch.stack(shares), logits)


class _Batch:
    """Lessons padded on the right, [b, n]: nothing that counts stands behind or sees the padding."""

    def __init__(self, decoder: Decoder, batch: Sequence[Lesson]) -> None:
        device = decoder.device
        ids = [[*lesson.prompt.ids, *lesson.answer] for lesson in batch]
        shape = (len(batch), max(map(len, ids)))
        self.hidden = torch.zeros((*shape, decoder.hidden), dtype=decoder.dtype, device=device)
        self.labels = torch.full(shape, -100, device=device)
        self.visual = torch.zeros(shape, dtype=torch.bool, device=device)
        self.asking = torch.zeros(shape, dtype=torch.bool, device=device)
        self.places = torch.full((*shape, 3), -1, device=device)
        there = torch.zeros(shape, dtype=torch.bool, device=device)
        with torch.no_grad():
            for row, (lesson, tokens) in enumerate(zip(batch, ids, strict=True)):
                prompt, size = lesson.prompt, len(lesson.prompt)
                visual, places = prompt.rows()
                if places is None or not prompt.visual or not lesson.answer:
                    raise ConfigError("a lesson needs visual tokens with their places, and an answer")
                self.hidden[row, :size] = embedded(decoder, [prompt])
                self.hidden[row, size : len(tokens)] = decoder.embed(
                    torch.tensor(lesson.answer, device=device)
                )
                self.labels[row, size : len(tokens)] = torch.tensor(lesson.answer, device=device)
                self.visual[row, :size] = torch.from_numpy(visual).to(device)
                self.asking[row, :size] = asking(self.visual[row, :size])
                self.places[row, :size] = torch.from_numpy(places).to(device)
                there[row, : len(tokens)] = True
        self.weight = hidden_from_all(there)
        self.positions = torch.arange(shape[1], device=device).expand(shape)


@contextmanager
def _frozen(model: Any) -> Iterator[None]:
    """Keep the model's weights, and let its attention pass gradients to the mask; undone on exit."""
    body = model.model.language_model
    wanted = [parameter.requires_grad for parameter in model.parameters()]
    before = body.config._attn_implementation
    model.requires_grad_(False)
    body.set_attn_implementation("eager")
    try:
        yield
    finally:
        body.set_attn_implementation(before)
        for parameter, grad in zip(model.parameters(), wanted, strict=True):
            parameter.requires_grad_(grad)
