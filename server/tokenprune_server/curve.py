"""Seconds as a function of tokens, fitted to noisy observations without ever being sure of them."""

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np

from tokenprune.non_negative import non_negative

_PER_OCTAVE = 32  # observations kept for prompts of n to 2n tokens, the latest ones
_REFIT_EVERY = 8  # new observations, once there are four times as many
_ITERATIONS = 12  # of reweighting; the weights have settled by then
# Of the prior, in observations that are far off the curve. Where prompts of few lengths were seen, a line and
# a parabola fit alike, but only the line says something sensible about other lengths.
_PRIOR_WEIGHT = np.array([0.3, 0.5, 3.0, 0.3])
_JITTER_S = 0.02  # of any measured time; short prompts must not say what long ones cost by it
_SMALLEST_RESIDUAL = 0.02  # relative; below it all residuals weigh alike
_UNITS = np.array([1.0, 1e3, 1e6, 1e2])  # of the columns: the solution is in seconds of comparable size


@dataclass(frozen=True, slots=True)
class Curve:
    """``base_s + per_token_s n + per_token2_s n^2`` seconds for n tokens; no coefficient is negative.

    Attributes:
        base_s: seconds that every request costs.
        per_token_s: seconds per token.
        per_token2_s: seconds per squared token: attention.
        per_output_s: seconds per token of the answer; not part of `seconds`.
    """

    base_s: float = 0.0
    per_token_s: float = 0.0
    per_token2_s: float = 0.0
    per_output_s: float = 0.0

    def seconds(self, tokens: float) -> float:
        """The seconds of ``tokens`` tokens; below 0 they count as 0."""
        tokens = max(tokens, 0.0)
        return self.base_s + tokens * (self.per_token_s + tokens * self.per_token2_s)

    def to_dict(self) -> dict[str, float]:
        """JSON-able form."""
        return asdict(self)


class CurveFit:
    """Learns a `Curve` online; thread-safe, in bounded memory.

    It minimises the quantile loss of the relative residuals (Koenker and Bassett 1978, by iteratively
    reweighted least squares) with non-negative coefficients and a weak quadratic pull to a prior. A quantile
    is robust: how far above the curve an observation lies does not matter, be it that it waited in a queue,
    ran beside others or met a cold start. A quantile below one half also leans to what was not delayed.
    Observations are kept per octave of tokens, so that many short requests do not displace the few long ones,
    and are forgotten after ``max_age_s``.

    Args:
        prior: what is believed before anything is seen.
        quantile: of the seconds at a number of tokens that the curve shall follow, in (0, 1).
        max_age_s: seconds after which an observation no longer counts.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        prior: Curve,
        *,
        quantile: float = 0.5,
        max_age_s: float = 3600.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._prior, self._quantile, self._max_age_s, self._clock = prior, quantile, max_age_s, clock
        self._lock = threading.Lock()
        self._octaves: dict[int, deque[tuple[float, float, float, float]]] = {}
        self._curve = prior
        self._unseen = 0
        self._fitted_at = clock()

    def __len__(self) -> int:
        return sum(len(octave) for octave in self._octaves.values())

    @property
    def latest(self) -> Curve:
        """The curve as it was fitted last: costs nothing."""
        return self._curve

    def observe(self, tokens: float, seconds: float, outputs: float = 0.0) -> None:
        """Note that ``tokens`` took ``seconds``, ``outputs`` tokens of the answer included."""
        if not (math.isfinite(seconds) and seconds > 0 and tokens >= 0):
            return
        with self._lock:
            octave = self._octaves.setdefault(int(max(tokens, 1.0)).bit_length(), deque(maxlen=_PER_OCTAVE))
            octave.append((tokens, outputs, seconds, self._clock()))
            self._unseen += 1

    def curve(self) -> Curve:
        """The curve as of now; fits anew when enough was seen since the last time."""
        with self._lock:
            now = self._clock()
            due = self._unseen >= max(1, min(_REFIT_EVERY, len(self) // 4))
            if due or now - self._fitted_at > self._max_age_s / 10:
                self._forget(now - self._max_age_s)
                self._curve = self._fit()
                self._unseen, self._fitted_at = 0, now
            return self._curve

    def _forget(self, before: float) -> None:
        for key in list(self._octaves):
            octave = self._octaves[key]
            while octave and octave[0][3] < before:
                octave.popleft()
            if not octave:
                del self._octaves[key]

    def _fit(self) -> Curve:
        rows = [row for octave in self._octaves.values() for row in octave]
        if not rows:
            return self._prior
        tokens, outputs, seconds, _ = np.array(rows).T
        columns = np.stack([np.ones_like(tokens), tokens, tokens**2, outputs], axis=1) / _UNITS
        prior = np.array([*self._prior.to_dict().values()]) * _UNITS
        # A machine may be a hundred times faster or slower than the prior: the pull is relative to either.
        rate = float(np.median(seconds / np.maximum(tokens, 1.0))) * _UNITS[1]
        pull = _PRIOR_WEIGHT / np.maximum(np.maximum(prior, prior[1]), rate) ** 2
        scale = seconds + _JITTER_S
        x, y, weights = columns / scale[:, None], seconds / scale, np.ones(len(rows))
        solution = prior
        for _ in range(_ITERATIONS):
            weighted = x * weights[:, None]
            solution = non_negative(x.T @ weighted + np.diag(pull), y @ weighted + pull * prior, solution)
            residuals = y - x @ solution
            side = np.where(residuals > 0, self._quantile, 1.0 - self._quantile)
            weights = side / np.maximum(np.abs(residuals), _SMALLEST_RESIDUAL)
        return Curve(*(float(value) for value in solution / _UNITS))
