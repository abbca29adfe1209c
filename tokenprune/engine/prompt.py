"""A prompt whose tokens are not all text: some are placeholders, and what stands in their places comes along.

A :class:`Prompt` is a sequence of token ids like any other, so that whatever reads or chooses tokens works on
it; where ids become hidden states (:func:`embedded`), the features of the visual tokens take the place of the
embeddings of their placeholders. That is what LLaVA-type models do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, overload

import numpy as np

from tokenprune.arrays import BoolArray, IntArray
from tokenprune.errors import ConfigError, ModelError

if TYPE_CHECKING:
    import torch

    from tokenprune.engine.decoder import Decoder


@dataclass(frozen=True, slots=True, eq=False)
class Prompt(Sequence[int]):
    """Token ids and the visual tokens among them.

    Attributes:
        ids: All tokens; a placeholder's id must be one of the vocabulary.
        visual: Positions of the visual tokens, ascending.
        features: [len(visual), hidden], what the model reads at these positions, behind the projector.
        places: Where each visual token is from, int64 [len(visual), 3]: number of the picture (or frame) in
            the prompt, row and column of its patch grid; None: not known.
    """

    ids: tuple[int, ...]
    visual: tuple[int, ...] = ()
    features: torch.Tensor | None = None
    places: IntArray | None = None

    def __post_init__(self) -> None:
        """Check that the parts belong together.

        Raises:
            ConfigError: Positions outside the prompt or not ascending, or of another number than features
                or places.
        """
        visual = self.visual
        if visual and not (visual[0] >= 0 and visual[-1] < len(self.ids)):
            raise ConfigError(
                f"visual tokens must lie in 0..{len(self.ids) - 1}, not {visual[0]}, {visual[-1]}"
            )
        if any(a >= b for a, b in pairwise(visual)):
            raise ConfigError("positions of visual tokens must ascend")
        have = 0 if self.features is None else len(self.features)
        if have != len(visual) or (self.features is not None and self.features.dim() != 2):
            raise ConfigError(
                f"{len(visual)} visual tokens need features of shape [{len(visual)}, hidden size], not "
                f"{None if self.features is None else list(self.features.shape)}"
            )
        if self.places is not None and self.places.shape != (len(visual), 3):
            raise ConfigError(f"places must have shape [{len(visual)}, 3], not {list(self.places.shape)}")

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[int]:
        return iter(self.ids)

    @overload
    def __getitem__(self, index: int) -> int: ...

    @overload
    def __getitem__(self, index: slice) -> Prompt: ...

    def __getitem__(self, index: int | slice) -> int | Prompt:
        if isinstance(index, slice):
            return self.take(range(*index.indices(len(self.ids))))
        return self.ids[index]

    def take(self, positions: Sequence[int]) -> Prompt:
        """Return the prompt of the tokens at some positions, which ascend."""
        number = {position: row for row, position in enumerate(self.visual)}
        found = [(new, number[old]) for new, old in enumerate(positions) if old in number]
        rows = [row for _, row in found]
        return Prompt(
            tuple(self.ids[position] for position in positions),
            tuple(new for new, _ in found),
            None if self.features is None else self.features[rows],
            None if self.places is None else self.places[rows],
        )

    def rows(self) -> tuple[BoolArray, IntArray | None]:
        """Return which tokens are visual, bool [n], and for all n where they are from, int64 [n, 3], or None.

        The places of text are -1.
        """
        mask = np.zeros(len(self.ids), dtype=bool)
        mask[list(self.visual)] = True
        if self.places is None:
            return mask, None
        places = np.full((len(self.ids), 3), -1, dtype=np.int64)
        places[mask] = self.places
        return mask, places


def take(ids: Sequence[int], positions: Sequence[int]) -> Sequence[int]:
    """Return the tokens at some positions, which ascend, with what stands in their places."""
    return ids.take(positions) if isinstance(ids, Prompt) else [ids[position] for position in positions]


def check_ids(decoder: Decoder, ids: Sequence[int]) -> None:
    """Refuse what a tokenizer made and the model has no embedding for.

    A tokenizer may well have more tokens than its model, as long as no text makes them.

    Raises:
        ModelError: There is such an id.
    """
    if ids and max(ids) >= decoder.vocabulary:
        raise ModelError(
            f"the tokenizer of {decoder.name or 'the model'} makes the id {max(ids)}, and the model embeds "
            f"{decoder.vocabulary} tokens only: put the tokenizer beside it that it was trained with, or "
            "resize its embeddings"
        )


def embedded(decoder: Decoder, prompts: Sequence[Sequence[int]]) -> torch.Tensor:
    """Return the hidden states [tokens of all prompts, hidden] that the first layer reads.

    Raises:
        ConfigError: Features of another width than the model's.
        ModelError: An id that the model has no embedding for.
    """
    import torch

    every = [token for ids in prompts for token in ids]
    check_ids(decoder, every)
    x = decoder.embed(torch.tensor(every, device=decoder.device))
    start = 0
    for ids in prompts:
        if isinstance(ids, Prompt) and ids.features is not None and ids.visual:
            if ids.features.shape[1] != decoder.hidden:
                raise ConfigError(
                    f"the features of visual tokens have width {ids.features.shape[1]}, the model reads "
                    f"{decoder.hidden}: they must come from the projector of this very model"
                )
            at = torch.tensor(ids.visual, device=decoder.device) + start
            x[at] = ids.features.to(x.device, x.dtype)
        start += len(ids)
    return x


def text_only(ids: Sequence[int], who: str) -> None:
    """Refuse a prompt with visual tokens.

    Raises:
        ConfigError: It has some, and ``who`` cannot read them.
    """
    if isinstance(ids, Prompt) and ids.visual:
        raise ConfigError(f"{who} reads text only, and the prompt has {len(ids.visual)} visual tokens")
