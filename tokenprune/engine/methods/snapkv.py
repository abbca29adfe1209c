"""SnapKV (arXiv 2404.14469): behind a full prefill each head keeps the entries that the last tokens look at.

It saves memory, and time per decoded token on long prompts. It does not save time to the first token: the
whole prompt goes through all layers. Layers are compressed as they are done, so the peak is one whole layer
and what the others keep.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tokenprune.engine.decoder import Check, Decoder, Part
from tokenprune.engine.prompt import embedded
from tokenprune.engine.reading import Reading, SequenceKV
from tokenprune.engine.schedule import Marks
from tokenprune.errors import ConfigError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class SnapKV:
    """The strategy. Every token is read, so ``kept`` of the reading is None: see :attr:`SnapReading.held`.

    Attributes:
        keep: Entries that a layer holds per key head, the window included.
        window: Last tokens, whose queries score the others; they stay.
        kernel: Scores are averaged over as many neighbours.
    """

    keep: int = 1024
    window: int = 64
    kernel: int = 5

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: The window is empty or as long as what is kept, or the kernel is not odd.
        """
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise ConfigError(f"a pooling kernel is an odd number from 1, not {self.kernel}")
        if not 1 <= self.window < self.keep:
            raise ConfigError(
                f"keep must exceed the window, which is 1 or more, not {self.keep}, {self.window}"
            )

    def prefill(self, decoder: Decoder, ids: Sequence[int], marks: Marks, check: Check) -> SnapReading:
        """Read the whole prompt; ``marks`` say nothing here, the last tokens are the query as published.

        Layers with a sliding window stay whole: their decode steps look at positions.
        """
        import torch

        size, sequence = len(ids), SequenceKV.empty(decoder)
        held: list[torch.Tensor | None] = []
        with torch.inference_mode():
            positions = torch.arange(size, device=decoder.device)
            rotary = decoder.rotary(positions)
            x = embedded(decoder, [ids])
            asked = positions[-self.window :]
            for number, kv in enumerate(sequence.layers):
                last = number == decoder.depth - 1
                small = size <= self.keep or decoder.weights.layers[number].window is not None
                # The last layer runs for its last row only; its window is asked for before.
                query = decoder.query_and_keys(number, x, rotary, asked)[0] if last and not small else None
                part = Part(0, size, positions, kv)
                x, every = decoder.layer(number, x, rotary, [part], last_only=last, check=check)
                sequence.computed += size
                if small:
                    held.append(None)
                    continue
                rows = self.rows(
                    every[:, -self.window :] if query is None else query, kv.keys, decoder.weights.scale
                )
                kv.select(rows)
                held.append(rows)
            logits = decoder.logits(x)[0]
        sequence.length = size
        return SnapReading(decoder, sequence, logits, None, tuple(held))

    def rows(self, query: torch.Tensor, keys: torch.Tensor, scale: float) -> torch.Tensor:
        """Return the entries that stay, int64 [G, keep], ascending.

        Probability of the window's rows, which see what lies before them, summed over the window, pooled, and
        averaged over the query heads that share a key.

        Args:
            query: [H, window, d], rotated.
            keys: [G, n, d], rotated; n exceeds ``keep``.
            scale: of the logits.
        """
        import torch
        from torch.nn.functional import avg_pool1d

        shared, size = query.shape[0] // len(keys), keys.shape[1]
        before = size - self.window
        hidden = torch.ones(self.window, self.window, dtype=torch.bool, device=keys.device).triu(1)
        tail = torch.arange(before, size, device=keys.device)
        out = []
        for own, key in zip(query.float().split(shared), keys.float(), strict=True):
            logits = own @ key.t() * scale
            logits[:, :, before:].masked_fill_(hidden, -torch.inf)
            scores = torch.softmax(logits, -1)[:, :, :before].sum(1)
            pooled = avg_pool1d(scores, self.kernel, stride=1, padding=self.kernel // 2).mean(0)
            out.append(torch.cat([pooled.topk(self.keep - self.window).indices.sort().values, tail]))
        return torch.stack(out)


@dataclass(slots=True)
class SnapReading(Reading):
    """A prompt that was read whole and is held in part.

    Attributes:
        held: Per layer the positions that each key head holds of the prompt, int64 [G, keep]; None: all.
    """

    held: tuple[torch.Tensor | None, ...] = ()
