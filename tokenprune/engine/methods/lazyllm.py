"""LazyLLM (arXiv 2407.14057): prompt tokens are dropped layer by layer, and come back when they are needed.

Behind some layers the tokens with the least attention from the last token leave; the kept sets are nested.
The hidden state of a token that leaves stays in an auxiliary store. In a later decode step the selection
starts from all tokens again, with the attention of the new token; a chosen token that was never computed in
the next layer goes on from its stored hidden state. So each token goes through each layer at most once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tokenprune.engine.calibration import known
from tokenprune.engine.decoder import Check, Decoder, Part, go_on
from tokenprune.engine.prompt import embedded
from tokenprune.engine.reading import HoldsKV, SequenceKV
from tokenprune.engine.rules import AttentionProbability, Pooled, ScoreRule
from tokenprune.engine.schedule import Drop, Marks, best
from tokenprune.errors import ConfigError

if TYPE_CHECKING:
    import torch

# Figure 4: 30 % of the layers see everything, then 30 % of what is left goes, three times.
PUBLISHED = (Drop(0.3, 0.7), Drop(0.6, 0.7), Drop(0.9, 0.7))
_LEAST_SHARE = 0.01


def drops_to(share: float) -> tuple[Drop, ...]:
    """Return steps behind the published layers, all of one share, that leave ``share`` of a prompt.

    Args:
        share: Of the tokens, 0 to 1; a hundredth stays at least.
    """
    each = min(1.0, max(share, _LEAST_SHARE) ** (1 / len(PUBLISHED)))
    return tuple(Drop(step.layer, each) for step in PUBLISHED)


@dataclass(frozen=True, slots=True)
class LazyLLM:
    """The strategy.

    Attributes:
        steps: Where tokens leave and how many stay, of those that are left.
        question: In the prefill the tokens of the window score, not the last one, and what is pinned stays.
        calibrated: With the question, score in each layer as the model's calibration says
            (:mod:`tokenprune.engine.calibration`), where it says something of the layer.
        kernel: Scores are averaged over as many neighbours; 1, as published, over none.
        revive: Select anew in each decode step, as published; False: what left the prefill stays away, and
            each decode step reads whatever a layer holds.
    """

    steps: tuple[Drop, ...] = PUBLISHED
    question: bool = False
    kernel: int = 1
    revive: bool = True
    calibrated: bool = False

    def __post_init__(self) -> None:
        """Check the kernel.

        Raises:
            ConfigError: Not an odd number, or calibrated without the question.
        """
        self.rule()
        if self.calibrated and not self.question:
            raise ConfigError("calibrations are of the question as the query: set question too")

    def rule(self) -> ScoreRule:
        """Return how tokens are scored."""
        return AttentionProbability() if self.kernel == 1 else Pooled(AttentionProbability(), self.kernel)

    def prefill(self, decoder: Decoder, ids: Sequence[int], marks: Marks, check: Check) -> LazyReading:
        """Read the prompt."""
        plan: dict[int, list[Drop]] = {}
        for step in self.steps:
            layer = step.behind(decoder.depth)
            if layer >= decoder.depth - 1:
                raise ConfigError(f"nothing can leave behind layer {layer}: the model has {decoder.depth}")
            plan.setdefault(layer, []).append(step)
        rules = known(decoder).calibration.rules() if self.calibrated else {}
        reading = LazyReading(decoder, self, plan, SequenceKV.empty(decoder), rules)
        reading.read(ids, marks if self.question else Marks(), check)
        reading.kept = tuple(reading.sequence.layers[-1].positions.tolist())
        return reading


@dataclass(slots=True)
class LazyReading(HoldsKV):
    """A prompt that was read lazily; see :class:`tokenprune.engine.reading.Reading`.

    The auxiliary store is not among its bytes of keys and values: see :attr:`aux_bytes`.

    Attributes:
        decoder: The model.
        strategy: What was asked for.
        plan: Layer -> steps behind it.
        sequence: Keys and values; a layer's entries are in the order they were computed.
        rules: Layer -> its own rule.
        frontier: int64 [capacity], for each position the first layer that has not computed it.
        aux: [capacity, hidden], for each position its input to that layer.
        logits: float32 [vocabulary], behind the last token read.
        kept: Positions of the prompt that reached the last layer in the prefill.
    """

    decoder: Decoder
    strategy: LazyLLM
    plan: dict[int, list[Drop]]
    sequence: SequenceKV
    rules: Mapping[int, ScoreRule]
    frontier: torch.Tensor = field(init=False)
    aux: torch.Tensor = field(init=False)
    logits: torch.Tensor = field(init=False)
    kept: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        """Start empty."""
        import torch

        device = self.decoder.device
        self.frontier = torch.zeros(0, dtype=torch.long, device=device)
        self.aux = torch.zeros((0, self.decoder.hidden), dtype=self.decoder.dtype, device=device)

    @property
    def aux_bytes(self) -> int:
        """Bytes of the hidden states of tokens that left."""
        return int(self.aux.numel() * self.aux.element_size())

    def step(self, token: int, check: Check = go_on) -> torch.Tensor:
        """Read one more token; return float32 logits [vocabulary] behind it."""
        self.read([token], Marks(), check)
        return self.logits

    def read(self, ids: Sequence[int], marks: Marks, check: Check) -> None:
        """Read tokens behind those that were read, and bring back those that the last one looks at."""
        import torch

        with torch.inference_mode():
            self.logits = self._read(ids, marks, check)
        self.sequence.length += len(ids)

    def _read(self, ids: Sequence[int], marks: Marks, check: Check) -> torch.Tensor:
        import torch

        decoder, before = self.decoder, self.sequence.length
        total = before + len(ids)
        self._reserve(total)
        rows = torch.arange(before, total, device=decoder.device)
        flags = [torch.from_numpy(f).to(decoder.device) for f in marks.rows(before, len(ids))]
        window, pinned = flags[0], torch.zeros(total, dtype=torch.bool, device=decoder.device)
        pinned[before:] = flags[1]
        selected = torch.ones(total, dtype=torch.bool, device=decoder.device)
        x = embedded(decoder, [ids])
        rotary = decoder.rotary(rows)
        for number in range(decoder.depth):
            last = number == decoder.depth - 1
            kv = self.sequence.layers[number]
            visible = self._visible(number, rows, selected)
            if last and visible is not None:
                visible = visible[-1:]
            part = Part(0, len(rows), rows, kv, visible=visible)
            self.sequence.computed += len(rows)
            x, query = decoder.layer(number, x, rotary, [part], last_only=last, check=check)
            self.frontier[rows] = number + 1
            if last or number not in self.plan:
                continue
            self.aux[rows] = x
            asked = window[rows - before] if before == 0 else rows == total - 1
            selected = self._select(number, query[:, asked], selected, pinned)
            # What goes on: chosen, and not computed in the next layer yet.
            rows = (selected & (self.frontier[:total] == number + 1)).nonzero()[:, 0]
            x = self.aux[rows]
            rotary = decoder.rotary(rows)
        return decoder.logits(x)[0]

    def _visible(self, number: int, rows: torch.Tensor, selected: torch.Tensor) -> torch.Tensor | None:
        """Which entries each row sees, [rows, entries with them]; None where position alone decides."""
        import torch

        earlier = self.sequence.layers[number].positions
        if not len(earlier):
            return None
        window = self.decoder.weights.layers[number].window
        if len(rows) == 1 and window is None and bool(selected[earlier].all()):
            return None
        positions = torch.cat([earlier, rows])
        distance = rows[:, None] - positions
        visible = selected[positions] & (distance >= 0)
        return visible if window is None else visible & (distance < window)

    def _select(
        self, number: int, query: torch.Tensor, selected: torch.Tensor, pinned: torch.Tensor
    ) -> torch.Tensor:
        """Return bool [positions], which tokens the next layer sees."""
        import torch

        kv = self.sequence.layers[number]
        if self.sequence.length and not self.strategy.revive:
            # Whatever got beyond this layer before, and the new token.
            chosen = selected & (self.frontier[: len(selected)] > number + 1)
            chosen[-1] = True
            return chosen
        entries = selected[kv.positions].nonzero()[:, 0]
        order = kv.positions[entries].argsort()
        entries = entries[order]
        positions = kv.positions[entries]
        count = min(step.count(len(positions)) for step in self.plan[number])
        rule = self.rules.get(number) or self.strategy.rule()
        scores = rule.score(query, kv.keys[:, entries], self.decoder.weights.scale)
        stay = positions[best(scores, count, pinned[positions])]
        chosen = torch.zeros_like(selected)
        chosen[stay] = True
        return chosen

    def _reserve(self, total: int) -> None:
        """Make room for ``total`` positions, doubling."""
        have = len(self.frontier)
        if total <= have:
            return
        more = max(2 * have, total + 64) - have
        self.frontier = _longer(self.frontier, more)
        self.aux = _longer(self.aux, more)


def _longer(tensor: torch.Tensor, more: int) -> torch.Tensor:
    import torch

    return torch.cat([tensor, tensor.new_zeros((more, *tensor.shape[1:]))])
