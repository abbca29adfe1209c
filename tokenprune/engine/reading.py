"""Sequences being read: packed prefill with reductions between layers, early exit, and decoding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tokenprune.engine.decoder import Check, Decoder, Near, Part, Rotary, go_on
from tokenprune.engine.kv import KVMeter, LayerKV
from tokenprune.engine.prompt import Prompt, embedded
from tokenprune.engine.schedule import LayerView, Marks, Reducer

if TYPE_CHECKING:
    import torch


@dataclass(slots=True)
class SequenceKV:
    """What is held of one sequence.

    Attributes:
        layers: Keys and values per layer.
        meter: Bytes of them.
        length: Tokens read; the position of the next one.
        computed: Token rows that went through each layer, summed over layers.
    """

    layers: list[LayerKV]
    meter: KVMeter
    length: int = 0
    computed: int = 0

    @classmethod
    def empty(cls, decoder: Decoder, depth: int | None = None) -> SequenceKV:
        """Start a sequence; ``depth`` layers instead of all."""
        meter = KVMeter()
        layers = [decoder.new_kv(meter) for _ in range(decoder.depth if depth is None else depth)]
        return cls(layers, meter)

    @property
    def bytes(self) -> int:
        """Bytes of keys and values in use."""
        return sum(layer.bytes for layer in self.layers)


@dataclass(slots=True)
class _Rows:
    """The rows of one sequence on their way through the layers."""

    sequence: SequenceKV
    positions: torch.Tensor
    window: torch.Tensor
    pinned: torch.Tensor
    visual: torch.Tensor | None = None
    places: torch.Tensor | None = None
    start: int = 0

    @property
    def end(self) -> int:
        return self.start + len(self.positions)

    def keep(self, rows: torch.Tensor) -> None:
        self.positions, self.window, self.pinned = self.positions[rows], self.window[rows], self.pinned[rows]
        self.visual = None if self.visual is None else self.visual[rows]
        self.places = None if self.places is None else self.places[rows]


def read(
    decoder: Decoder,
    sequences: Sequence[SequenceKV],
    ids: Sequence[Sequence[int]],
    *,
    reducer: Reducer | None = None,
    marks: Sequence[Marks] | None = None,
    positions: Sequence[Sequence[int]] | None = None,
    depth: int | None = None,
    last_only: bool = True,
    keep_kv: bool = True,
    near: Near | None = None,
    check: Check = go_on,
) -> torch.Tensor:
    """Read more tokens of one or more sequences in one packed pass.

    Args:
        decoder: the model.
        sequences: where keys and values go; each at its own length.
        ids: tokens to read, at least one per sequence; a :class:`Prompt` where some are visual.
        reducer: drops or merges rows between layers, behind the last that runs too where all its rows are
            asked for and the model has more; None: nothing.
        marks: query window and pinned positions per sequence, for the reducer.
        positions: of the tokens, ascending, behind what was read; None: without gaps. Not with marks.
        depth: layers to run; None: all.
        last_only: compute only the last row of each sequence in the last layer that runs.
        keep_kv: False gives the memory of a layer's keys and values back behind it.
        near: what tokens see, to save time; None: all before them. Layers with a window of their own keep it.
        check: called between the pieces of the work, several times per layer; raises to stop.

    Returns:
        Hidden states behind the last layer that ran, before the final norm: [sequences, hidden], or of all
        rows that are left, [rows, hidden].
    """
    import torch

    depth = decoder.depth if depth is None else depth
    chosen = marks or [Marks()] * len(sequences)
    at = positions or [range(s.length, s.length + len(t)) for s, t in zip(sequences, ids, strict=True)]
    every = [
        _start(decoder, sequence, tokens, where, mark)
        for sequence, tokens, where, mark in zip(sequences, ids, at, chosen, strict=True)
    ]
    with torch.inference_mode():
        x = embedded(decoder, ids)
        rotary = _packed(decoder, every)
        for number in range(depth):
            parts = [
                Part(rows.start, rows.end, rows.positions, rows.sequence.layers[number], near)
                for rows in every
            ]
            last = last_only and number == depth - 1
            for rows in every:
                rows.sequence.computed += rows.end - rows.start
            x, query = decoder.layer(number, x, rotary, parts, last_only=last, check=check)
            onward = number < depth - 1 or (not last_only and depth < decoder.depth)
            if reducer is not None and onward and reducer.acts_after(number, decoder.depth):
                x = _reduce(decoder, reducer, number, x, query, every)
                rotary = _packed(decoder, every)
            if not keep_kv:
                for part in parts:
                    part.kv.release()
    for sequence, where in zip(sequences, at, strict=True):
        sequence.length = where[-1] + 1
    return x


def _start(
    decoder: Decoder, sequence: SequenceKV, tokens: Sequence[int], where: Sequence[int], marks: Marks
) -> _Rows:
    import torch

    positions = torch.tensor(where, device=decoder.device)
    window, pinned = (torch.from_numpy(m).to(decoder.device) for m in marks.rows(sequence.length, len(where)))
    rows = _Rows(sequence, positions, window, pinned)
    if isinstance(tokens, Prompt) and tokens.visual:
        visual, places = tokens.rows()
        rows.visual = torch.from_numpy(visual).to(decoder.device)
        rows.places = None if places is None else torch.from_numpy(places).to(decoder.device)
    return rows


def _packed(decoder: Decoder, every: Sequence[_Rows]) -> Rotary:
    """Lay the rows out one behind the other and return their rotation."""
    start = 0
    for rows in every:
        rows.start = start
        start = rows.end
    return decoder.rotary(*(rows.positions for rows in every))


def _reduce(
    decoder: Decoder,
    reducer: Reducer,
    number: int,
    x: torch.Tensor,
    query: torch.Tensor,
    every: Sequence[_Rows],
) -> torch.Tensor:
    import torch

    parts = []
    for rows in every:
        own = slice(rows.start, rows.end)
        view = LayerView(
            layer=number,
            depth=decoder.depth,
            hidden=x[own],
            query=query[:, own],
            keys=rows.sequence.layers[number].keys,
            positions=rows.positions,
            window=rows.window,
            pinned=rows.pinned,
            scale=decoder.weights.scale,
            visual=rows.visual,
            places=rows.places,
        )
        reduction = reducer.reduce(view)
        if reduction is None:
            parts.append(x[own])
            continue
        parts.append(reduction.apply(x[own]))
        rows.keep(reduction.keep)
    return parts[0] if len(parts) == 1 else torch.cat(parts)


class HoldsKV:
    """Says what its ``sequence`` holds."""

    __slots__ = ()
    sequence: SequenceKV

    @property
    def kv_bytes(self) -> int:
        """Bytes of keys and values that are in use."""
        return self.sequence.bytes

    @property
    def peak_kv_bytes(self) -> int:
        """Most bytes of keys and values that were allocated at a time."""
        return self.sequence.meter.peak


@dataclass(slots=True)
class Reading(HoldsKV):
    """A prompt that was read, ready to be continued.

    Attributes:
        decoder: The model.
        sequence: Its keys and values.
        logits: float32 [vocabulary], behind the last token read.
        kept: Positions of the prompt that were kept to the end, ascending; None: all of them.
    """

    decoder: Decoder
    sequence: SequenceKV
    logits: torch.Tensor
    kept: tuple[int, ...] | None = field(default=None)

    def step(self, token: int, check: Check = go_on) -> torch.Tensor:
        """Read one more token; return float32 logits [vocabulary] behind it."""
        import torch

        hidden = read(self.decoder, [self.sequence], [[token]], check=check)
        with torch.inference_mode():
            self.logits = self.decoder.logits(hidden)[0]
        return self.logits


def read_prompt(
    decoder: Decoder,
    ids: Sequence[int],
    *,
    reducer: Reducer | None = None,
    marks: Marks | None = None,
    positions: Sequence[int] | None = None,
    check: Check = go_on,
) -> Reading:
    """Read a whole prompt of one sequence; see :func:`read`."""
    at = None if positions is None else [positions]
    return read_prompts(decoder, [ids], reducer=reducer, marks=[marks or Marks()], positions=at, check=check)[
        0
    ]


def read_prompts(
    decoder: Decoder,
    prompts: Sequence[Sequence[int]],
    *,
    reducer: Reducer | None = None,
    marks: Sequence[Marks] | None = None,
    positions: Sequence[Sequence[int]] | None = None,
    check: Check = go_on,
) -> list[Reading]:
    """Read whole prompts in one packed pass; see :func:`read`."""
    import torch

    sequences = [SequenceKV.empty(decoder) for _ in prompts]
    hidden = read(decoder, sequences, prompts, reducer=reducer, marks=marks, positions=positions, check=check)
    with torch.inference_mode():
        logits = decoder.logits(hidden)
    kept = [None if reducer is None else tuple(s.layers[-1].positions.tolist()) for s in sequences]
    return [
        Reading(decoder, sequence, row, stay)
        for sequence, row, stay in zip(sequences, logits, kept, strict=True)
    ]


def step_together(readings: Sequence[Reading], tokens: Sequence[int], check: Check = go_on) -> None:
    """Read one more token of each sequence in one packed pass; each reading has its new ``logits``."""
    import torch

    decoder = readings[0].decoder
    hidden = read(decoder, [r.sequence for r in readings], [[token] for token in tokens], check=check)
    with torch.inference_mode():
        for reading, row in zip(readings, decoder.logits(hidden), strict=True):
            reading.logits = row
