"""From what all heads said of some prompts to the layer, rule, pooling and heads to go by.

Half of the prompts choose, the other half says what the choice is worth. Heads of earlier layers, which are
run anyway, join those of a layer one by one as long as they help. Early layers cost less: of the layers that
keep nearly as many answers as the best one, the earliest is taken.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import compress, product
from typing import TYPE_CHECKING

from tokenprune.calibrate.observe import Observed
from tokenprune.engine.calibration import FALLBACK_KERNEL, PUBLISHED_KERNEL, Choice
from tokenprune.engine.rules import relative
from tokenprune.errors import ConfigError

if TYPE_CHECKING:
    import torch

KERNELS = (5, 13, 21, 29)  # a sentence has about 25 tokens
AROUND = (None, 129)
COUNTS = (64, 128, 256, 512, 1024)
HEAD_COUNTS = (1, 2, 3, 4, 6, 8, 12, 16)
HEAD, TAIL = 4, 8  # of `QuestionGemFilter`: tokens that stay anyway
MOST_HEADS = 8  # of all layers together
JOINING = 24  # heads of earlier layers that are tried, the best alone
GAIN = 0.02  # share of answers that a head has to add to join
LEAST_PROMPTS = 4  # two choose, two say what it is worth
TOLERANCE = 0.05
PUBLISHED_TOLERANCE = 0.03  # that rule may find so little that any layer lies within a wider one


@dataclass(frozen=True, slots=True)
class LayerFound:
    """What one layer is worth; shares of answers kept are means over the token counts, on unseen prompts.

    Attributes:
        alone: the best rule of the layer; ``kept`` is of unseen prompts.
        choice: the same with heads of earlier layers, where they help.
        chosen_by: share of answers that ``choice`` kept on the prompts that chose it.
        all_heads: of the best pooling with all heads.
        last: of the published rule.
        last_chosen_by: of the published rule, on the prompts that choose.
        last_kept: of the published rule, by tokens kept.
    """

    alone: Choice
    choice: Choice
    chosen_by: float
    all_heads: float
    last: float
    last_chosen_by: float
    last_kept: dict[int, float]

    @property
    def kept(self) -> float:
        """Share of answers kept on unseen prompts, mean over the token counts."""
        return _mean(self.choice)

    @property
    def kept_alone(self) -> float:
        """The same without heads of earlier layers."""
        return _mean(self.alone)


@dataclass(frozen=True, slots=True)
class Found:
    """The outcome.

    Attributes:
        question: for the question as the query.
        published: for the last token.
        layers: every layer that was looked at, in order.
    """

    question: Choice
    published: Choice
    layers: tuple[LayerFound, ...]


@dataclass(frozen=True, slots=True)
class _Candidate:
    softmax: bool
    kernel: int
    heads: tuple[int, ...] | None
    around: int | None
    peak: bool
    needs: torch.Tensor  # int64 [prompts]


def _mean(choice: Choice) -> float:
    return sum(choice.kept.values()) / len(choice.kept)


def counts_for(tokens: int) -> tuple[int, ...]:
    """Return how many tokens to keep of prompts of ``tokens``: up to a quarter."""
    return tuple(count for count in COUNTS if count <= max(COUNTS[0], tokens // 4))


def check_tolerance(tolerance: float) -> None:
    """Raise ConfigError unless it is a share."""
    if not 0 <= tolerance <= 1:
        raise ConfigError(f"the tolerance must lie in [0, 1], not {tolerance}")


def search(
    observed: Sequence[Observed],
    counts: Sequence[int],
    tolerance: float = TOLERANCE,
    layer: int | None = None,
) -> Found:
    """Choose.

    Args:
        observed: prompts; by turns, pairs of them choose and test.
        counts: numbers of tokens to keep that matter, all alike.
        tolerance: share of answers that an earlier layer may miss beyond the best one.
        layer: for the question; None: by ``tolerance``.

    Raises:
        ConfigError: fewer than 4 prompts, or a tolerance outside [0, 1].
    """
    if len(observed) < LEAST_PROMPTS:
        raise ConfigError(f"a choice needs {LEAST_PROMPTS} prompts or more, not {len(observed)}")
    check_tolerance(tolerance)
    chooses = [n // 2 % 2 == 0 for n in range(len(observed))]
    choosing = list(compress(observed, chooses))
    alone = {
        (layer, head, peak): need
        for layer, peak in product(sorted(observed[0].layers), (False, True))
        for head, need in enumerate(_size_of_heads(choosing, layer, peak))
    }
    layers = tuple(_layer(observed, layer, counts, chooses, alone) for layer in sorted(observed[0].layers))
    named = [found for found in layers if found.choice.layer == layer]
    question = named[0] if named else _earliest(layers, [f.chosen_by for f in layers], tolerance)
    least = min(tolerance, PUBLISHED_TOLERANCE)
    last = _earliest(layers, [found.last_chosen_by for found in layers], least)
    published = Choice(last.choice.layer, False, PUBLISHED_KERNEL, kept=last.last_kept)
    return Found(question.choice, published, layers)


def _earliest(layers: Sequence[LayerFound], values: Sequence[float], tolerance: float) -> LayerFound:
    enough = max(values) - tolerance
    return next(found for found, value in zip(layers, values, strict=True) if value >= enough - 1e-9)


def _layer(
    observed: Sequence[Observed],
    layer: int,
    counts: Sequence[int],
    chooses: Sequence[bool],
    alone: Mapping[tuple[int, int, bool], float],
) -> LayerFound:
    import torch

    picks = torch.tensor(chooses, device=observed[0].layers[layer].last.device)
    choosing = list(compress(observed, chooses))
    testing = [one for one, chosen in zip(observed, chooses, strict=True) if not chosen]
    candidates = []
    for kernel in KERNELS:
        candidates.append(_raw(observed, layer, kernel))
        for around, peak in product(AROUND, (False, True)):
            candidates.append(_all_heads(observed, layer, kernel, around, peak))
            candidates += _few_heads(observed, layer, kernel, around, peak, picks)
    # Of equals the one with the smaller sets, then the first: all heads before few.
    best = max(candidates, key=lambda c: _worth(c.needs[picks], counts))
    plain = max(
        (c for c in candidates if c.heads is None and c.softmax and c.around is None and not c.peak),
        key=lambda c: _worth(c.needs[picks], counts),
    )
    last = torch.stack(
        [_needs(o, o.layers[layer].last[None], PUBLISHED_KERNEL, None, 0, 0)[0] for o in observed]
    )
    kept = _by_count(best.needs[~picks], counts)
    found = Choice(layer, best.softmax, best.kernel, best.heads, best.around, kept=kept, peak=best.peak)
    fused = found
    if best.heads is not None:
        earlier = _joined(choosing, found, counts, alone)
        if earlier:
            fused = replace(found, earlier=earlier)
            fused = replace(fused, kept=_by_count(_needs_of(testing, fused), counts))
    return LayerFound(
        alone=found,
        choice=fused,
        chosen_by=_share(best.needs[picks] if fused is found else _needs_of(choosing, fused), counts),
        all_heads=_share(plain.needs[~picks], counts),
        last=_share(last[~picks], counts),
        last_chosen_by=_share(last[picks], counts),
        last_kept=_by_count(last[~picks], counts),
    )


def _size_of_heads(observed: Sequence[Observed], layer: int, peak: bool) -> list[float]:
    """For each head of a layer, how many tokens must stay when it alone scores (mean of logarithms)."""
    import torch

    needs = torch.stack(
        [_needs(o, o.layers[layer].probability(peak), FALLBACK_KERNEL, None) for o in observed]
    )
    sizes: list[float] = needs.double().log().mean(0).tolist()
    return sizes


def _joined(
    observed: Sequence[Observed],
    choice: Choice,
    counts: Sequence[int],
    alone: Mapping[tuple[int, int, bool], float],
) -> dict[int, tuple[int, ...]]:
    """Return the heads of earlier layers that help, each the one that helps most beside those before it."""
    before = [(layer, head) for layer, head, peak in alone if peak == choice.peak and layer < choice.layer]
    tried = sorted(before, key=lambda pair: alone[*pair, choice.peak])[:JOINING]
    worth = _worth(_needs_of(observed, choice), counts)
    chosen: set[tuple[int, int]] = set()
    while len(chosen) + len(choice.heads or ()) < MOST_HEADS:
        found = {
            pair: _worth(_needs_of(observed, replace(choice, earlier=_by_layer({*chosen, pair}))), counts)
            for pair in tried
            if pair not in chosen
        }
        if not found or max(found.values())[0] < worth[0] + GAIN:
            break
        best = max(found, key=lambda pair: found[pair])
        chosen.add(best)
        worth = found[best]
    return _by_layer(chosen)


def _by_layer(pairs: Collection[tuple[int, int]]) -> dict[int, tuple[int, ...]]:
    layers = sorted({layer for layer, _ in pairs})
    return {layer: tuple(sorted(head for own, head in pairs if own == layer)) for layer in layers}


def _needs_of(observed: Sequence[Observed], choice: Choice) -> torch.Tensor:
    """Return what a choice of named heads needs of each prompt, int64 [prompts]."""
    import torch

    needs = []
    for one in observed:
        parts = []
        for layer, heads, share in choice.named():
            own = one.layers[layer].probability(choice.peak)[list(heads)].mean(0, keepdim=True)
            parts.append(share * _pooled(own, choice.kernel, choice.around))
        needs.append(one.need(reduce(torch.add, parts), HEAD, TAIL)[0])
    return torch.stack(needs)


def _all_heads(
    observed: Sequence[Observed], layer: int, kernel: int, around: int | None, peak: bool
) -> _Candidate:
    import torch

    scores = [one.layers[layer].probability(peak).mean(0, keepdim=True) for one in observed]
    needs = [_needs(one, own, kernel, around)[0] for one, own in zip(observed, scores, strict=True)]
    return _Candidate(True, kernel, None, around, peak, torch.stack(needs))


def _raw(observed: Sequence[Observed], layer: int, kernel: int) -> _Candidate:
    import torch

    needs = [_needs(one, one.layers[layer].raw[None], kernel, None)[0] for one in observed]
    return _Candidate(False, kernel, None, None, False, torch.stack(needs))


def _few_heads(
    observed: Sequence[Observed],
    layer: int,
    kernel: int,
    around: int | None,
    peak: bool,
    picks: torch.Tensor,
) -> list[_Candidate]:
    """Heads in the order of what they are worth alone; means of the first 1, 2, 3..."""
    import torch

    heads = [one.layers[layer].probability(peak) for one in observed]
    alone = torch.stack([_needs(o, h, kernel, around) for o, h in zip(observed, heads, strict=True)])
    order = alone[picks].double().log().mean(0).argsort(stable=True)
    sizes = [size for size in HEAD_COUNTS if size < len(order)]
    rows = []
    for one, own in zip(observed, heads, strict=True):
        ranked = own[order]
        means = torch.stack([ranked[:size].mean(0) for size in sizes]) if sizes else ranked[:0]
        rows.append(_needs(one, means, kernel, around))
    needs = torch.stack(rows)
    return [
        _Candidate(True, kernel, tuple(sorted(order[:size].tolist())), around, peak, needs[:, n])
        for n, size in enumerate(sizes)
    ]


def _needs(
    one: Observed,
    scores: torch.Tensor,
    kernel: int,
    around: int | None,
    head: int = HEAD,
    tail: int = TAIL,
) -> torch.Tensor:
    return one.need(_pooled(scores, kernel, around), head, tail)


def _pooled(scores: torch.Tensor, kernel: int, around: int | None) -> torch.Tensor:
    from torch.nn.functional import avg_pool1d

    if around is not None:
        scores = relative(scores, around)
    return avg_pool1d(scores, kernel, stride=1, padding=kernel // 2)


def _worth(needs: torch.Tensor, counts: Sequence[int]) -> tuple[float, float]:
    """Order needs: more answers kept, then smaller sets."""
    return _share(needs, counts), -_size(needs)


def _share(needs: torch.Tensor, counts: Sequence[int]) -> float:
    return sum(_by_count(needs, counts).values()) / len(counts)


def _by_count(needs: torch.Tensor, counts: Sequence[int]) -> dict[int, float]:
    return {count: round(float((needs <= count).double().mean()), 4) for count in counts}


def _size(needs: torch.Tensor) -> float:
    return float(needs.double().log().mean())
