"""What a prompt costs the upstream and what pruning costs us, learned from the requests that pass."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tokenprune.lru import ByteLru
from tokenprune_server.curve import Curve, CurveFit

_MAX_NAMES = 64  # models, and methods, that are known at a time
_MAX_OTHERS = 4  # requests in flight beside an observed one: with more, its time says more of them
_FIRST_TOKENS = 2  # observations from which times can tell a cache hit
_MIN_HIT = 32  # tokens: below two blocks neither a hit nor a miss says anything
_TRUST_STEP = 0.3
_SCALE_STEP = 0.1
_KEEP_STEP = 0.1
_QUANTILE = 0.3
_SURE = 5  # prunes before a method may be found slower than the prior: the first ones often are
_PRUNE_BASE_S = 0.005
_PRUNE_MAX_AGE_S = 300.0
_PROBE_S = 20.0  # a pruner that was found slow, and is not used since, is tried again after that
_OUTPUT_S = 0.02  # prior of a token of the answer


@dataclass(frozen=True, slots=True)
class Usage:
    """What the upstream says it read and wrote; ``cached`` is None where it does not say."""

    prompt: int
    cached: int | None = None
    output: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """A prefill that was watched.

    Attributes:
        model: the name the request gave.
        prompt_tokens: of the prompt as it was sent, by our own count.
        cached_tokens: of those, predicted to be in the upstream's cache (if it has one).
        seconds: from sending the request to the first token; to the end of an answer in one piece.
        usage: what the upstream counted, if it said so.
        whole: ``seconds`` are those of the whole answer.
        others: requests that were in flight when this one was sent.
    """

    model: str
    prompt_tokens: float
    cached_tokens: float
    seconds: float
    usage: Usage | None = None
    whole: bool = False
    others: int = 0


class _Model:
    """What is known of one model of the upstream."""

    def __init__(self, prior: Curve, clock: Callable[[], float]) -> None:
        self.prefill = CurveFit(prior, quantile=_QUANTILE, clock=clock)
        self.trust = 0.8  # servers mostly keep prefixes unless told otherwise
        self.scale = 1.0
        self.reports = False  # it has named cached tokens before
        self.hits = False  # it has found a prompt's beginning in its cache before
        self.judged = False  # trust is more than a guess

    def observe(self, answer: Answer) -> None:
        usage = answer.usage
        prompt = answer.prompt_tokens * self.scale
        predicted = min(answer.cached_tokens * self.scale, prompt)
        if usage is not None and answer.prompt_tokens > 0:
            ratio = min(max(usage.prompt / answer.prompt_tokens, 0.25), 4.0)
            self.scale += _SCALE_STEP * (ratio - self.scale)
            predicted *= usage.prompt / max(prompt, 1.0)
            prompt = float(usage.prompt)
        reported = usage.cached if usage is not None else None
        if reported is not None:
            self.reports = True
        elif usage is not None and self.reports:
            reported = 0  # vLLM leaves out what is zero
        seconds = answer.seconds
        outputs = max(0, usage.output - 1) if usage is not None and answer.whole else 0
        known = reported is not None
        if reported is None and answer.others == 0 and len(self.prefill) >= _FIRST_TOKENS:
            seconds_in = seconds - outputs * self.prefill.latest.per_output_s
            reported = self._inferred(prompt, predicted, seconds_in)
        if reported is not None and max(predicted, reported) >= _MIN_HIT:
            right = 1.0 if predicted < _MIN_HIT else min(1.0, reported / predicted)
            first_hit = not self.hits and reported >= _MIN_HIT  # one shows that there is a cache
            self.trust += (1.0 if first_hit else _TRUST_STEP) * (right - self.trust)
            self.hits, self.judged = self.hits or first_hit, True
        # Where the upstream is silent and a hit is likely, nobody knows how many tokens took this time.
        unknown = not known and predicted > prompt / 2
        if answer.others > _MAX_OTHERS or unknown or (answer.whole and usage is None):
            return
        cached = float(reported) if known and reported is not None else predicted * self.trust
        self.prefill.observe(max(prompt - cached, 1.0), seconds, outputs)

    def _inferred(self, prompt: float, predicted: float, seconds: float) -> int | None:
        """Cached tokens by the time they saved; None when no hit was predicted."""
        if predicted < _MIN_HIT:
            return None
        curve = self.prefill.latest
        miss, hit = curve.seconds(prompt), curve.seconds(prompt - predicted)
        share = (miss - seconds) / max(miss - hit, 1e-9)
        return int(predicted * min(max(share, 0.0), 1.0))


class _Method:
    """What is known of one pruning method."""

    def __init__(self, prior: Curve, keep: float, clock: Callable[[], float]) -> None:
        self.seconds = CurveFit(prior, quantile=_QUANTILE, max_age_s=_PRUNE_MAX_AGE_S, clock=clock)
        self.keep = keep
        self.used_at = clock()


class CostModel:
    """Costs per model of the upstream and per pruning method; thread-safe, in bounded memory.

    Prefill seconds are learned as a function of the tokens that were not cached. Queueing cannot be seen from
    here, so it is kept out in two ways: answers to requests that had more than a few others beside them are
    not used, and of the others the curve follows a low quantile (see `CurveFit`).

    A prediction of cached tokens is worth what the upstream makes of it: ``trust`` is a moving average of
    reported over predicted tokens, begun anew by the first hit. Where the upstream reports none, the time to
    the first token tells.

    Args:
        prefill_tokens_per_s: prefill rate that is believed at first.
        prune_tokens_per_s: the same for pruning.
        keep_ratio: share of the tokens that a prune is believed to keep at first.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        prefill_tokens_per_s: float,
        prune_tokens_per_s: float,
        keep_ratio: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock, self._keep = clock, keep_ratio
        self._prefill_prior = Curve(per_token_s=1.0 / prefill_tokens_per_s, per_output_s=_OUTPUT_S)
        self._prune_prior = Curve(_PRUNE_BASE_S, 1.0 / prune_tokens_per_s)
        self._lock = threading.Lock()
        self._caches: bool | None = None  # what the upstream says of itself
        self._models: ByteLru[str, _Model] = ByteLru(_MAX_NAMES, _MAX_NAMES)
        self._methods: ByteLru[str, _Method] = ByteLru(_MAX_NAMES, _MAX_NAMES)
        self._unseen_model = _Model(self._prefill_prior, clock)
        self._unseen_method = _Method(self._prune_prior, keep_ratio, clock)

    def prefill(self, model: str) -> Curve:
        """Seconds of prefill as a function of the tokens that are not cached, counted as we count them."""
        known = self._model(model)
        curve, scale = known.prefill.curve(), known.scale
        return Curve(
            curve.base_s, scale * curve.per_token_s, scale * scale * curve.per_token2_s, curve.per_output_s
        )

    def trust(self, model: str) -> float:
        """Which share of the cached tokens that are predicted really is cached, 0..1."""
        known = self._model(model)
        if known.judged or self._caches is None:
            return known.trust
        return 1.0 if self._caches else 0.0

    def keeps_prefixes(self, model: str) -> bool:
        """Whether the upstream was seen to use a prefix cache, or says that it has one."""
        known = self._model(model)
        return known.hits or (not known.judged and bool(self._caches))

    def upstream_caches(self, caches: bool) -> None:
        """Learn what the upstream says of itself; it holds until answers of a model tell better."""
        self._caches = caches

    def pruning_s(self, method: str, tokens: float) -> float:
        """Seconds that pruning documents of so many tokens takes.

        Only pruning tells how long it takes: what a few prunes say against it is not believed yet, and what
        was seen on a busy machine is tried again now and then.
        """
        known = self._method(method)
        learned, prior = known.seconds.curve().seconds(tokens), self._prune_prior.seconds(tokens)
        sure = len(known.seconds) >= _SURE and self._clock() - known.used_at < _PROBE_S
        return learned if sure else min(learned, prior)

    def keep_ratio(self, method: str) -> float:
        """Which share of its documents' tokens a method keeps when it decides by itself."""
        return self._method(method).keep

    def answered(self, answer: Answer) -> None:
        """Learn from an answer of the upstream."""
        with self._lock:
            known = self._models.get(answer.model)
            if known is None:
                known = _Model(self._prefill_prior, self._clock)
                self._models.put(answer.model, known, 1)
            known.observe(answer)

    def pruned(self, method: str, tokens: int, seconds: float, kept: int | None) -> None:
        """Learn from a prune; ``kept`` tokens are None where a budget decided."""
        with self._lock:
            known = self._methods.get(method)
            if known is None:
                known = _Method(self._prune_prior, self._keep, self._clock)
                self._methods.put(method, known, 1)
        known.seconds.observe(tokens, seconds)
        known.used_at = self._clock()
        if kept is not None and tokens > 0:
            known.keep += _KEEP_STEP * (min(1.0, kept / tokens) - known.keep)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form of what was learned."""
        with self._lock:
            models, methods = self._models.items(), self._methods.items()
        return {
            "models": {
                name: {
                    "prefill": known.prefill.curve().to_dict(),
                    "observations": len(known.prefill),
                    "cache_trust": known.trust,
                    "tokens_per_own_token": known.scale,
                }
                for name, known in models
            },
            "methods": {
                name: {
                    "pruning": known.seconds.curve().to_dict(),
                    "observations": len(known.seconds),
                    "keep_ratio": known.keep,
                }
                for name, known in methods
            },
            "prior": {
                "prefill": self._prefill_prior.to_dict(),
                "pruning": self._prune_prior.to_dict(),
                "keep_ratio": self._keep,
            },
        }

    def _model(self, name: str) -> _Model:
        with self._lock:
            return self._models.get(name) or self._unseen_model

    def _method(self, name: str) -> _Method:
        with self._lock:
            return self._methods.get(name) or self._unseen_method
