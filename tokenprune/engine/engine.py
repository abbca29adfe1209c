"""Prefill and decode of a causal LM: greedy or sampled, streamed, stoppable at any moment.

A strategy may leave tokens of the prompt out (:mod:`tokenprune.engine.methods`); without one the prompt is
read whole, and greedy output equals that of transformers.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING, Literal, Protocol

from tokenprune.engine.decoder import Check, Decoder
from tokenprune.engine.detokenize import IncrementalDetokenizer, StopMatcher
from tokenprune.engine.fair_lock import FairLock
from tokenprune.engine.prompt import Prompt
from tokenprune.engine.reading import read_prompt
from tokenprune.engine.sampling import Sampler, SamplingError, SamplingParams
from tokenprune.engine.schedule import Marks
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


class Continuation(Protocol):
    """A prompt that was read, ready to be continued.

    Attributes:
        logits: float32 [vocabulary], behind the last token read.
        kept: Positions of the prompt that were kept, ascending; None: all.
        kv_bytes: Bytes of keys and values in use.
        peak_kv_bytes: Most bytes of keys and values that were allocated at a time.
    """

    logits: torch.Tensor
    kept: tuple[int, ...] | None

    @property
    def kv_bytes(self) -> int: ...  # noqa: D102

    @property
    def peak_kv_bytes(self) -> int: ...  # noqa: D102

    def step(self, token: int, check: Check = ...) -> torch.Tensor:
        """Read one more token; return float32 logits [vocabulary] behind it."""
        ...


class Strategy(Protocol):
    """Reads a prompt, perhaps not all of it."""

    def prefill(self, decoder: Decoder, ids: Sequence[int], marks: Marks, check: Check) -> Continuation:
        """Read ``ids``; ``check`` is to be called often, and raises to stop."""
        ...


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
            ModelError: The model cannot be found or loaded, or is none that the engine runs.
            SamplingError: ``max_model_len`` is out of range.
        """
        self.lm: LoadedLM = load_causal_lm(model, device, dtype)
        limit = self.lm.max_positions
        if max_model_len is not None and not 1 < max_model_len <= limit:
            raise SamplingError("max_model_len", f"max_model_len must be in 2..{limit}, got {max_model_len}.")
        self.max_model_len = max_model_len or limit
        self.decoder = Decoder(self.lm.model, model)
        self._turn = FairLock()

    def warm_up(self) -> None:
        """Run a short generation, so that the first request does not pay for kernels being set up."""
        size = min(_WARM_UP_TOKENS, self.max_model_len - 2)
        if size > 0:
            list(self.generate([0] * size, SamplingParams(max_tokens=2, temperature=0, ignore_eos=True)))

    def generate(
        self,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        cancel: threading.Event | None = None,
        *,
        strategy: Strategy | None = None,
        marks: Marks | None = None,
    ) -> Iterator[Step]:
        """Check the request, then return an iterator over its steps; closing the iterator frees the engine.

        The steps may be taken in changing threads, one at a time.

        Args:
            prompt_ids: Tokens of the whole prompt, special tokens included; a
                :class:`tokenprune.engine.prompt.Prompt` where some of them are visual.
            params: How to continue it.
            cancel: Set it from any thread to stop, also while waiting for the engine and within a prefill.
            strategy: How the prompt is read; None: whole.
            marks: For the strategy: where the question stands, and what must stay.

        Raises:
            ContextLengthError: It does not fit :attr:`max_model_len`.
            ConfigError: ``marks`` names a position outside the prompt.
            SamplingError: The prompt is empty or has an id outside the vocabulary.
            CancelledError: (while iterating) ``cancel`` was set.
            EngineBusyError: (while iterating) this thread itself holds the engine: it took the last step of
                another generation and neither finished nor closed it. A thread other than the main one first
                waits half a minute for another one to go on with that.
        """
        limit = self.output_limit(prompt_ids, params.max_tokens)
        marks = marks or Marks()
        marks.check(len(prompt_ids))
        return self._generate(_held(prompt_ids), params, limit, cancel or threading.Event(), strategy, marks)

    def prefill(
        self,
        prompt_ids: Sequence[int],
        *,
        strategy: Strategy | None = None,
        marks: Marks | None = None,
        cancel: threading.Event | None = None,
    ) -> Continuation:
        """Read a prompt and return what can be continued token by token; see :meth:`generate`.

        Raises:
            ContextLengthError: It does not fit :attr:`max_model_len`.
            SamplingError: The prompt is empty or has an id outside the vocabulary.
            ConfigError: ``marks`` names a position outside the prompt.
            CancelledError: ``cancel`` was set.
        """
        self.output_limit(prompt_ids, 1)
        marks = marks or Marks()
        marks.check(len(prompt_ids))
        cancel = cancel or threading.Event()
        with self._turn.hold(cancel) as held:
            if not held:
                raise CancelledError("cancelled while waiting for the engine")
            return self._prefill(_held(prompt_ids), strategy, marks, cancel)

    def output_limit(self, prompt_ids: Sequence[int], max_tokens: int | None) -> int:
        """Return how many tokens may be generated; raises as :meth:`generate` does."""
        size = len(prompt_ids)
        if size == 0:
            raise SamplingError("prompt", "The prompt is empty; at least one token is needed.")
        vocabulary = self.decoder.vocabulary
        if not isinstance(prompt_ids, Prompt) and not all(isinstance(i, Integral) for i in prompt_ids):
            raise SamplingError("prompt", "Token ids must be whole numbers.")
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
        self,
        prompt: Sequence[int],
        params: SamplingParams,
        limit: int,
        cancel: threading.Event,
        strategy: Strategy | None,
        marks: Marks,
    ) -> Iterator[Step]:
        with self._turn.hold(cancel) as held:
            if not held:
                raise CancelledError("cancelled while waiting for the engine")
            for step in self._run(self._prefill(prompt, strategy, marks, cancel), params, limit, cancel):
                with self._turn.idle():
                    yield step

    def _prefill(
        self, prompt: Sequence[int], strategy: Strategy | None, marks: Marks, cancel: threading.Event
    ) -> Continuation:
        def check() -> None:
            # Asked several times per layer: a long prefill takes many seconds.
            if cancel.is_set():
                raise CancelledError("cancelled while reading the prompt")

        if strategy is None:
            return read_prompt(self.decoder, prompt, check=check)
        return strategy.prefill(self.decoder, prompt, marks, check)

    def _run(
        self, reading: Continuation, params: SamplingParams, limit: int, cancel: threading.Event
    ) -> Iterator[Step]:
        sampler = Sampler(params, self.lm.device)
        text = IncrementalDetokenizer(self.lm.tokenizer)
        matcher = StopMatcher(params.stop)
        ends = params.stop_token_ids if params.ignore_eos else params.stop_token_ids | self.lm.eos_ids
        logits = reading.logits
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
            logits = reading.step(token)


def _held(ids: Sequence[int]) -> Sequence[int]:
    """Return the prompt in a form that its caller cannot change any more."""
    return ids if isinstance(ids, Prompt) else list(ids)
