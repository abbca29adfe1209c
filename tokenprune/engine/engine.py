"""Prefill and decode of a causal LM: greedy or sampled, streamed, stoppable at any moment."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from tokenprune.engine.detokenize import IncrementalDetokenizer, StopMatcher
from tokenprune.engine.fair_lock import FairLock
from tokenprune.engine.sampling import Sampler, SamplingError, SamplingParams
from tokenprune.errors import TokenPruneError
from tokenprune.models.causal_lm import LoadedLM, load_causal_lm

if TYPE_CHECKING:
    import torch

FinishReason = Literal["stop", "length"]
_WARM_UP_TOKENS = 64


class ContextLengthError(TokenPruneError):
    """The prompt, or prompt and asked output together, do not fit the model's context."""


class CancelledError(TokenPruneError):
    """The caller's cancel event was set."""


@dataclass(frozen=True, slots=True)
class Step:
    """One generated token.

    Attributes:
        token_id: The token.
        text_delta: Text that became certain with it; empty while a character or a possible stop string is
            incomplete.
        finish_reason: Set in the last step only.
        logprob: Natural log probability of the token under the model, before temperature, when asked for.
        stop_reason: The stop string or stop token id that ended the generation, when one did.
    """

    token_id: int
    text_delta: str
    finish_reason: FinishReason | None = None
    logprob: float | None = None
    stop_reason: str | int | None = None


class Engine:
    """Generates with one model, one sequence at a time, callers served in the order they came."""

    def __init__(
        self,
        model: str,
        *,
        device: str | None = None,
        dtype: str | None = None,
        max_model_len: int | None = None,
    ) -> None:
        """Load ``model``: a named model, a folder or a hub id.

        Args:
            model: What to load.
            device: A torch device; the accelerator or else the CPU by default.
            dtype: Number format; the fastest one that keeps quality by default.
            max_model_len: Tokens of prompt and output together; at most, and by default, what the model can
                read.

        Raises:
            ModelError: The model cannot be found or loaded.
            SamplingError: ``max_model_len`` is out of range.
        """
        self.lm: LoadedLM = load_causal_lm(model, device, dtype)
        limit = self.lm.max_positions
        if max_model_len is not None and not 1 < max_model_len <= limit:
            raise SamplingError("max_model_len", f"max_model_len must be in 2..{limit}, got {max_model_len}.")
        self.max_model_len = max_model_len or limit
        self._turn = FairLock()

    def warm_up(self) -> None:
        """Run a short generation, so that the first request does not pay for kernels being set up."""
        size = min(_WARM_UP_TOKENS, self.max_model_len - 2)
        if size > 0:
            list(self.generate([0] * size, SamplingParams(max_tokens=2, temperature=0, ignore_eos=True)))

    def generate(
        self, prompt_ids: Sequence[int], params: SamplingParams, cancel: threading.Event | None = None
    ) -> Iterator[Step]:
        """Check the request, then return an iterator over its steps; closing the iterator frees the engine.

        Args:
            prompt_ids: Tokens of the whole prompt, special tokens included.
            params: How to continue it.
            cancel: Set it from any thread to stop, also while waiting for the engine and within a prefill.

        Raises:
            ContextLengthError: It does not fit :attr:`max_model_len`.
            SamplingError: The prompt is empty or has an id outside the vocabulary.
            CancelledError: (while iterating) ``cancel`` was set.
        """
        limit = self.output_limit(prompt_ids, params.max_tokens)
        return self._generate(list(prompt_ids), params, limit, cancel or threading.Event())

    def output_limit(self, prompt_ids: Sequence[int], max_tokens: int | None) -> int:
        """Return how many tokens may be generated; raises as :meth:`generate` does."""
        size = len(prompt_ids)
        if size == 0:
            raise SamplingError("prompt", "The prompt is empty; at least one token is needed.")
        vocabulary = self.lm.model.get_input_embeddings().weight.shape[0]
        if min(prompt_ids) < 0 or max(prompt_ids) >= vocabulary:
            raise SamplingError("prompt", f"Token ids must be in 0..{vocabulary - 1}.")
        room = self.max_model_len - size
        head = f"This model's maximum context length is {self.max_model_len} tokens. However, "
        if room < 1:
            raise ContextLengthError(
                f"{head}your prompt contains {size} input tokens, which leaves no room for any output token. "
                "Please reduce the length of the input prompt."
            )
        if max_tokens is not None and max_tokens > room:
            raise ContextLengthError(
                f"{head}you requested {max_tokens} output tokens and your prompt contains {size} input "
                f"tokens, for a total of {size + max_tokens} tokens. Please reduce the length of the input "
                "prompt or the number of requested output tokens."
            )
        return room if max_tokens is None else max_tokens

    def _generate(
        self, prompt: list[int], params: SamplingParams, limit: int, cancel: threading.Event
    ) -> Iterator[Step]:
        with self._turn.hold(cancel) as held:
            if not held:
                raise CancelledError("cancelled while waiting for the engine")
            yield from self._run(prompt, params, limit, cancel)

    def _run(
        self, prompt: list[int], params: SamplingParams, limit: int, cancel: threading.Event
    ) -> Iterator[Step]:
        sampler = Sampler(params, self.lm.device)
        text = IncrementalDetokenizer(self.lm.tokenizer)
        matcher = StopMatcher(params.stop)
        ends = params.stop_token_ids if params.ignore_eos else params.stop_token_ids | self.lm.eos_ids
        with _interruptible(self.lm.model, cancel):
            logits, cache = self._prefill(prompt)
        for count in range(1, limit + 1):
            token = sampler.choose(logits)
            logprob = float(logits.log_softmax(-1)[token]) if params.logprobs else None
            if token in ends:
                rest, stop = matcher.push(text.flush())
                delta = rest if stop is not None else rest + matcher.flush()
                reason = stop if stop is not None else (token if token in params.stop_token_ids else None)
                yield Step(token, delta, "stop", logprob, reason)
                return
            delta, stop = matcher.push(text.push(token))
            if stop is None and count == limit:
                rest, stop = matcher.push(text.flush())
                delta += rest if stop is not None else rest + matcher.flush()
            finish: FinishReason | None = "stop" if stop is not None else "length" if count == limit else None
            yield Step(token, delta, finish, logprob, stop)
            if finish is not None:
                return
            if cancel.is_set():
                raise CancelledError("cancelled while generating")
            logits = self._decode(token, cache)

    def _prefill(self, prompt: list[int]) -> tuple[torch.Tensor, Any]:
        """Read the prompt; return float32 logits [vocabulary] after its last token, and the filled cache."""
        import torch
        from transformers import DynamicCache

        cache = DynamicCache(config=self.lm.model.config)
        ids = torch.tensor([prompt], dtype=torch.long, device=self.lm.device)
        return self._forward(ids, cache), cache

    def _decode(self, token: int, cache: Any) -> torch.Tensor:
        """Read one more token; return float32 logits [vocabulary] after it."""
        import torch

        return self._forward(torch.tensor([[token]], dtype=torch.long, device=self.lm.device), cache)

    def _forward(self, ids: torch.Tensor, cache: Any) -> torch.Tensor:
        import torch

        with torch.inference_mode():
            output = self.lm.model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
            logits: torch.Tensor = output.logits[0, -1].float()
            return logits


@contextmanager
def _interruptible(model: Any, cancel: threading.Event) -> Iterator[None]:
    """Check ``cancel`` before each layer: a long prefill in one pass takes many seconds."""

    def check(*_: Any) -> None:
        if cancel.is_set():
            raise CancelledError("cancelled while reading the prompt")

    layers = getattr(model.get_decoder(), "layers", ())
    handles = [layer.register_forward_pre_hook(check) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
