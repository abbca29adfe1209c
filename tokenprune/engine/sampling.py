"""What a caller may ask of a generation, and the choice of the next token."""

from __future__ import annotations

import math
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tokenprune.errors import TokenPruneError

if TYPE_CHECKING:
    import torch


class SamplingError(TokenPruneError):
    """A sampling parameter outside its range; ``parameter`` names it."""

    def __init__(self, parameter: str, message: str) -> None:
        """Keep the name of the wrong parameter beside the message."""
        self.parameter = parameter
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to continue a prompt.

    Attributes:
        max_tokens: Tokens to generate at most; None fills the model's context.
        temperature: 0 takes the most likely token; otherwise divides the logits.
        top_p: Smallest set of tokens whose probability reaches this; 1 keeps all.
        top_k: Keep this many most likely tokens; 0 keeps all.
        seed: Makes sampling repeatable; None draws a new seed.
        stop: Strings that end the generation; they are not part of the text.
        stop_token_ids: Tokens that end the generation like the model's own end token.
        ignore_eos: Go on when the model's end token comes.
        logprobs: Compute the log probability of each chosen token.
    """

    max_tokens: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: frozenset[int] = frozenset()
    ignore_eos: bool = False
    logprobs: bool = False

    def __post_init__(self) -> None:
        """Check every range.

        Raises:
            SamplingError: A value has no meaning.
        """
        if self.max_tokens is not None and self.max_tokens < 1:
            raise SamplingError("max_tokens", f"max_tokens must be at least 1, got {self.max_tokens}.")
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise SamplingError("temperature", f"temperature must be non-negative, got {self.temperature}.")
        if not 0 < self.top_p <= 1:
            raise SamplingError("top_p", f"top_p must be in (0, 1], got {self.top_p}.")
        if self.top_k < 0:
            raise SamplingError("top_k", f"top_k must be 0 (all) or more, got {self.top_k}.")
        if self.seed is not None and not -(2**63) <= self.seed < 2**63:
            raise SamplingError("seed", f"seed must fit 64 bits, got {self.seed}.")
        if any(not text for text in self.stop):
            raise SamplingError("stop", "stop cannot contain an empty string.")


class Sampler:
    """Chooses tokens for one generation; holds the random state."""

    # Below this a division overflows float32 and the choice is the most likely token anyway.
    _GREEDY_BELOW = 1e-5

    def __init__(self, params: SamplingParams, device: torch.device) -> None:
        """Seed the generator on ``device``."""
        import torch

        self._params = params
        self._generator = torch.Generator(device=device)
        self._generator.manual_seed(secrets.randbits(63) if params.seed is None else params.seed)

    def choose(self, logits: torch.Tensor) -> int:
        """Return the next token for float32 ``logits`` [vocabulary]."""
        import torch

        params = self._params
        if params.temperature < self._GREEDY_BELOW:
            return int(logits.argmax())
        logits = logits / params.temperature
        if 0 < params.top_k < logits.numel():
            floor = logits.topk(params.top_k).values[-1]
            logits = logits.masked_fill(logits < floor, -torch.inf)
        probabilities = logits.softmax(-1)
        if params.top_p < 1:
            ordered, order = probabilities.sort(descending=True)
            # A token stays when those before it do not reach top_p yet, so at least one always stays.
            ordered = ordered.masked_fill(ordered.cumsum(0) - ordered >= params.top_p, 0.0)
            probabilities = torch.zeros_like(probabilities).scatter(0, order, ordered)
        return int(torch.multinomial(probabilities, 1, generator=self._generator))
