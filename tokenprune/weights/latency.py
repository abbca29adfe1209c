"""How long the parts of a layer take on this machine, by their width: what a cost of ``latency`` counts.

An attention and an FFN of the model's family, with random weights, are timed on a prompt at a few widths, in
rounds that take every width in turn; the median of the rounds counts. Between widths seconds are
interpolated, below the least they go on along the first piece; a wider part never counts as faster than a
narrower one. Norms, the embedding and the head are not pruned and not
counted. Costs are whole nanoseconds.
"""

from __future__ import annotations

import copy
import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict

from tokenprune.errors import RecipeError
from tokenprune.weights.kept import Shape

# (part, width, what to time) -> seconds
Stopwatch = Callable[[str, int, Callable[[], Any]], float]
_ROUNDS = 5
_WIDTHS = 5


class Latency(BaseModel):
    """Seconds of a layer's parts, as they were measured.

    Attributes:
        tokens: Length of the prompt.
        threads: Threads that torch had.
        machine: Where.
        attention: KV groups -> seconds of an attention.
        ffn: FFN channels -> seconds of an FFN.
    """

    model_config = ConfigDict(frozen=True)

    tokens: int
    threads: int
    machine: str
    attention: dict[int, float]
    ffn: dict[int, float]

    def costs(self, shape: Shape) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return nanoseconds of 0, 1, ... KV groups, and of 0, 1, ... channels.

        Raises:
            RecipeError: The table is of a model with other sizes.
        """
        if max(self.attention) != shape.kv_heads or max(self.ffn) != shape.intermediate[0]:
            raise RecipeError(
                f"latency was measured for {max(self.attention)} KV groups and {max(self.ffn)} channels, the "
                f"model has {shape.kv_heads} and {shape.intermediate[0]}: measure it for this model"
            )
        return _filled(self.attention), _filled(self.ffn)


def measure(
    model: Any, tokens: int, stopwatch: Stopwatch | None = None, rounds: int = _ROUNDS, widths: int = _WIDTHS
) -> Latency:
    """Time the parts of a dense layer.

    Args:
        model: A dense transformers decoder; only its config is read.
        tokens: Length of the prompt.
        stopwatch: Times one run; the wall clock by default.
        rounds: Runs of every width.
        widths: How many of each part, evenly spread; the whole width is one of them.
    """
    import torch

    from tokenprune.bench.machine import machine

    shape, stopwatch = Shape.of(model.config), stopwatch or _wall_clock
    sizes = {
        "attention": _spread(shape.kv_heads, widths),
        "ffn": _spread(shape.intermediate[0], widths),
    }
    runs = {
        (part, width): _part(model, shape, part, width, tokens)
        for part, all_of in sizes.items()
        for width in all_of
    }
    taken: dict[tuple[str, int], list[float]] = {key: [] for key in runs}
    with torch.no_grad():
        for run in runs.values():  # the first run of a shape also plans it
            run()
        for _ in range(rounds):
            for (part, width), run in runs.items():
                taken[part, width].append(stopwatch(part, width, run))
    found = {key: statistics.median(values) for key, values in taken.items()}
    return Latency(
        tokens=tokens,
        threads=torch.get_num_threads(),
        machine=machine(),
        attention={width: found["attention", width] for width in sizes["attention"]},
        ffn={width: found["ffn", width] for width in sizes["ffn"]},
    )


def _wall_clock(part: str, width: int, run: Callable[[], Any]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def _spread(whole: int, count: int) -> Sequence[int]:
    """Return up to ``count`` widths from about whole / count to the whole."""
    return sorted({max(1, whole * step // count) for step in range(1, count + 1)})


def _part(model: Any, shape: Shape, part: str, width: int, tokens: int) -> Callable[[], Any]:
    """Build one part of one layer with random weights; return what runs it."""
    import torch

    from tokenprune.weights.stream import Stream

    config = copy.deepcopy(model.config)
    config.num_hidden_layers, config.vocab_size, config.head_dim = 1, 8, shape.head_dim
    config.bos_token_id = config.eos_token_id = config.pad_token_id = None
    if getattr(config, "layer_types", None) is not None:
        config.layer_types = config.layer_types[:1]
    groups = width if part == "attention" else shape.kv_heads
    config.num_key_value_heads, config.num_attention_heads = groups, groups * shape.queries_per_kv
    config.intermediate_size = width if part == "ffn" else 1
    state = torch.random.get_rng_state()
    try:
        one = type(model)._from_config(config).eval().float()
        hidden = torch.randn(1, tokens, shape.hidden)
    finally:
        torch.random.set_rng_state(state)
    layer = one.model.layers[0]
    if part == "ffn":
        return lambda: layer.mlp(hidden)
    given = Stream(one, torch.zeros(1, tokens, dtype=torch.int64)).arguments(0)
    return lambda: layer.self_attn(hidden_states=hidden, past_key_values=None, **given)


def _filled(seconds: dict[int, float]) -> tuple[int, ...]:
    """Return nanoseconds of every width from 0 to the largest."""
    widths = sorted(seconds)
    points = [(width, seconds[width]) for width in widths]
    rising = list(itertools.accumulate((s for _, s in points), max))
    if len(widths) > 1:
        slope = (rising[1] - rising[0]) / (widths[1] - widths[0])
        least = max(0.0, rising[0] - slope * widths[0])
    else:
        least = 0.0
    xs, ys = [0, *widths], [least, *rising]
    found = []
    at = 0
    for width in range(widths[-1] + 1):
        while xs[at + 1] < width:
            at += 1
        share = (width - xs[at]) / (xs[at + 1] - xs[at])
        found.append(round((ys[at] + share * (ys[at + 1] - ys[at])) * 1e9))
    return tuple(found)
