"""GemFilter (arXiv 2409.17422): an early layer chooses the tokens, then the model reads only those.

Layers 0 to r - 1 run on the whole prompt and layer r gives queries and keys; nothing behind it is computed.
The tokens with the best scores, in their order, are then a prompt of their own with fresh positions. The cost
is about r / L of a full prefill for a model of L layers, whatever the length, and a short prefill.

As published the last token is the query. Behind a chat template that token belongs to the template, and the
question stands before it: :class:`QuestionGemFilter` takes the question's tokens as queries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tokenprune.engine.calibration import Choice, fallback, go_by
from tokenprune.engine.choice import best_units, count_for_mass
from tokenprune.engine.decoder import Check, Decoder, Near, go_on
from tokenprune.engine.prompt import take
from tokenprune.engine.reading import Reading, SequenceKV, read, read_prompt
from tokenprune.engine.rules import DotProduct, Look, Pooled, ScoreRule
from tokenprune.engine.schedule import LayerView, Marks, Reduction, best
from tokenprune.errors import ConfigError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Selected:
    """Tokens of a prompt that stay.

    Attributes:
        positions: Ascending.
        peak_kv_bytes: Most bytes of keys and values that the selection held at a time.
    """

    positions: tuple[int, ...]
    peak_kv_bytes: int = 0


@dataclass(frozen=True, slots=True)
class GemFilter:
    """The published method.

    Attributes:
        layer: r, whose queries and keys are looked at; 13 of 32 for Llama-3.1-8B, 19 of 40 for Mistral-Nemo.
            None: as the model is calibrated (:mod:`tokenprune.engine.calibration`).
        keep: Tokens of the prompt that the model reads.
        kernel: Scores are averaged over as many neighbours.
    """

    layer: int | None = None
    keep: int = 1024
    kernel: int = 5

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: The layer is below 1, nothing is kept, or the kernel is not odd.
        """
        _check_layer_and_keep(self.layer, self.keep)
        self.rule()

    def rule(self) -> ScoreRule:
        """Return how tokens are scored."""
        return Pooled(DotProduct(), self.kernel)

    def layer_of(self, decoder: Decoder) -> int:
        """Return r for a model."""
        return go_by(decoder, None).published.layer if self.layer is None else self.layer

    def select(self, decoder: Decoder, ids: Sequence[int], check: Check = go_on) -> Selected:
        """Choose the positions that stay; all of a prompt that is not longer than ``keep``."""
        if len(ids) <= self.keep:
            return Selected(tuple(range(len(ids))))
        look = Look(self.layer_of(decoder), self.rule())
        found = scores_at(decoder, ids, (look,), Marks(), check)
        chosen = found.scores.topk(self.keep).indices.sort().values
        return Selected(tuple(chosen.tolist()), found.peak_kv_bytes)

    def prefill(self, decoder: Decoder, ids: Sequence[int], marks: Marks, check: Check) -> Reading:
        """Select, then read what stays; ``marks`` are not looked at."""
        return read_selected(decoder, ids, self.select(decoder, ids, check), check)


@dataclass(frozen=True, slots=True)
class QuestionGemFilter:
    """GemFilter with the question as the query.

    What is None of layer, softmax, kernel and heads is as the model is calibrated
    (:mod:`tokenprune.engine.calibration`), which knows the best heads of each layer: an earlier layer is
    cheaper, and ``tokenprune calibrate`` shows what it finds.

    Attributes:
        layer: r, whose queries and keys are looked at.
        keep: Tokens of the prompt that the model reads, pinned ones included; pinned ones stay even beyond.
        softmax: Score by attention probability; False: by the raw product.
        kernel: Scores are averaged over as many neighbours.
        heads: Query heads that count.
        head: First tokens that always stay (the template, an attention sink).
        tail: Last tokens that always stay (the template).
        snap: Keep whole units of ``Marks.units`` instead of single tokens.
        mass: Keep fewer than ``keep`` tokens when these hold this share of all scores (probabilities) of
            tokens that are not pinned; None: always ``keep``.
        least: Tokens that stay whatever ``mass`` says.
        near: While selecting, tokens before the question see at most so many positions before them and the
            first four; those from the question on see everything. None: as in the model. Attention is about
            half of the work at 4,096 tokens of a small model, and most of it is far away.
        narrow: Share of the tokens that the layers behind the first one looked at still read, ``keep`` at
            least: those it scores best (as in LazyLLM, arXiv 2407.14057). None: all. Of a model whose
            calibration looks at one layer only, all are read anyway.
    """

    layer: int | None = None
    keep: int = 256
    softmax: bool | None = None
    kernel: int | None = None
    heads: tuple[int, ...] | None = None
    head: int = 4
    tail: int = 8
    snap: bool = False
    mass: float | None = None
    least: int = 64
    near: int | None = None
    narrow: float | None = None

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: A value outside its range, or ``mass`` with raw products, which can be negative.
        """
        _check_layer_and_keep(self.layer, self.keep)
        fallback(2).question.but(self.layer, self.softmax, self.kernel, self.heads)
        if min(self.head, self.tail) < 0:
            raise ConfigError("head and tail must be 0 or more")
        check_near(self.near)
        narrowed(self.narrow, 1)
        if self.mass is not None:
            self._check_mass(self.softmax is not False)

    def _check_mass(self, softmax: bool) -> None:
        if self.mass is not None and not (softmax and 0 < self.mass <= 1):
            raise ConfigError("mass must lie in (0, 1], and needs softmax scores")

    def choice(self, decoder: Decoder) -> Choice:
        """Return how tokens of this model are scored."""
        base = go_by(decoder, self.layer).asked(self.layer)
        return base.but(self.layer, self.softmax, self.kernel, self.heads)

    def select(self, decoder: Decoder, ids: Sequence[int], marks: Marks, check: Check = go_on) -> Selected:
        """Choose the positions that stay; all of a prompt that is not longer than ``keep``.

        The window of ``marks`` is the query and stays; without one the last token is.

        Raises:
            ConfigError: A marked position outside the prompt.
        """
        import torch

        size = len(ids)
        marks.check(size)
        if size <= self.keep:
            return Selected(tuple(range(size)))
        window = marks.window or (size - 1,)
        near = None if self.near is None else Near(self.near, free_from=min(window))
        choice = self.choice(decoder)
        self._check_mass(choice.softmax)
        _, fixed = marks.rows(0, size)
        fixed[: self.head] = True
        fixed[size - self.tail :] = True
        stays = Marks(window, tuple(fixed.nonzero()[0].tolist()))
        onward = narrowed(self.narrow, size, self.keep)
        found = scores_at(decoder, ids, choice.looks(), stays, check, near, onward)
        pinned = torch.from_numpy(fixed).to(found.scores.device)
        count = self.keep
        if self.mass is not None:
            count = min(count, max(self.least, count_for_mass(found.scores, pinned, self.mass)))
        if self.snap and marks.units:
            chosen = best_units(found.scores, count, pinned, marks.units)
        else:
            chosen = best(found.scores, count, pinned)
        return Selected(tuple(chosen.tolist()), found.peak_kv_bytes)

    def prefill(self, decoder: Decoder, ids: Sequence[int], marks: Marks, check: Check) -> Reading:
        """Select, then read what stays."""
        return read_selected(decoder, ids, self.select(decoder, ids, marks, check), check)


def narrowed(narrow: float | None, size: int, least: int = 1) -> int | None:
    """Return how many of ``size`` tokens go on behind the first layer looked at; None: all.

    Raises:
        ConfigError: ``narrow`` is no share.
    """
    if narrow is None:
        return None
    if not 0 < narrow <= 1:
        raise ConfigError(f"narrow is a share in (0, 1], not {narrow}")
    return max(least, round(narrow * size))


@dataclass(frozen=True, slots=True)
class Scores:
    """What some layers say of a prompt.

    Attributes:
        scores: float32 [n].
        peak_kv_bytes: Most bytes of keys and values on the way there.
    """

    scores: torch.Tensor
    peak_kv_bytes: int


@dataclass(slots=True)
class _Glances:
    """Adds up what layers say on the way.

    Attributes:
        looks: Layers that say something.
        onward: Tokens that go on behind the first of them; None: all.
        total: What was said so far of the tokens that are left.
        left: Their positions; None: all.
    """

    looks: Mapping[int, Look]
    onward: int | None = None
    total: torch.Tensor | None = None
    left: torch.Tensor | None = None

    def acts_after(self, layer: int, depth: int) -> bool:
        return layer in self.looks

    def reduce(self, view: LayerView) -> Reduction | None:
        look = self.looks[view.layer]
        total = self.add(look, view.query[:, view.window], view.keys, view.scale)
        if self.onward is None or self.left is not None or self.onward >= len(total):
            return None
        keep = best(total, self.onward, view.pinned)
        self.total, self.left = total[keep], view.positions[keep]
        return Reduction(keep)

    def add(self, look: Look, query: torch.Tensor, keys: torch.Tensor, scale: float) -> torch.Tensor:
        scores = look.share * look.rule.score(query, keys, scale)
        self.total = scores if self.total is None else self.total + scores
        return self.total


def scores_at(
    decoder: Decoder,
    ids: Sequence[int],
    looks: Sequence[Look],
    marks: Marks,
    check: Check = go_on,
    near: Near | None = None,
    onward: int | None = None,
) -> Scores:
    """Score the tokens of a prompt from the queries of a window in the layers looked at, and add up.

    The layers before the last of them run; of that one only queries and keys are computed.

    Args:
        decoder: the model.
        ids: of the prompt.
        looks: at least one layer.
        marks: the window; and what is pinned, which goes on whatever it scores.
        check: called between the pieces of the work; raises to stop.
        near: what tokens see; None: all before them.
        onward: tokens that go on behind the first of several layers; the others score 0, or as little as
            the least of these where scores can be negative. None: all.

    Raises:
        ConfigError: The model has no such layer.
    """
    import torch

    *before, last = sorted(looks, key=lambda look: look.layer)
    layer = last.layer
    check_layer(layer, decoder.depth)
    sequence = SequenceKV.empty(decoder, layer)
    glances = _Glances({look.layer: look for look in before}, onward)
    hidden = read(
        decoder,
        [sequence],
        [ids],
        reducer=glances,
        marks=[marks],
        depth=layer,
        last_only=False,
        keep_kv=False,
        near=near,
        check=check,
    )
    check()
    with torch.inference_mode():
        left = torch.arange(len(ids), device=decoder.device) if glances.left is None else glances.left
        asking = torch.from_numpy(marks.rows(0, len(ids))[0]).to(decoder.device)[left].nonzero()[:, 0]
        query, keys = decoder.query_and_keys(layer, hidden, decoder.rotary(left), asking)
        scores = glances.add(last, query, keys, decoder.weights.scale)
        if glances.left is not None:
            least = scores.min().clamp(max=0.0)
            scores = least.repeat(len(ids)).index_copy(0, left, scores)
        return Scores(scores, sequence.meter.peak)


def check_near(near: int | None) -> None:
    """Raise ConfigError unless ``near`` is None or 1 or more positions."""
    if near is not None and near < 1:
        raise ConfigError(f"near must be 1 or more positions, not {near}")


def check_layer(layer: int, depth: int) -> None:
    """Raise ConfigError unless a model of ``depth`` layers can be looked at in this one."""
    if depth < 2:
        raise ConfigError("a model of one layer has no early layer that could choose: take a deeper one")
    if not 0 < layer < depth:
        raise ConfigError(f"the layer must lie in 1..{depth - 1} for this model, not {layer}")


def _check_layer_and_keep(layer: int | None, keep: int) -> None:
    for what, value in (("layer", layer), ("keep", keep)):
        if value is not None and not isinstance(value, int):
            raise ConfigError(f"{what} must be a whole number, not {value!r}")
    if layer is not None and layer < 1:
        raise ConfigError(f"the layer must be 1 or more, not {layer}")
    if keep < 1:
        raise ConfigError(f"keep must be 1 or more tokens, not {keep}")


def read_selected(
    decoder: Decoder, ids: Sequence[int], selected: Selected, check: Check, *, fresh: bool = True
) -> Reading:
    """Read the selected tokens as a prompt of their own: with fresh positions, or at their old ones."""
    reading = read_prompt(
        decoder,
        take(ids, selected.positions),
        positions=None if fresh else selected.positions,
        check=check,
    )
    reading.kept = selected.positions
    meter = reading.sequence.meter
    meter.peak = max(meter.peak, selected.peak_kv_bytes)
    return reading
