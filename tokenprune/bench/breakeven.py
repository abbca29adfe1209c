"""From which prompt length on pruning pays: fits of the time to first token, and where they cross."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from tokenprune.arrays import FloatArray
from tokenprune.bench.statistics import ENOUGH
from tokenprune.non_negative import non_negative

_MIN_CASES = 4
_MIN_SPAN = 1.5  # longest prompt over the shortest: less says nothing about how time grows
_FAR = 10  # times the longest prompt: what fits say beyond that is not worth a word
_ROUNDS = 300

Status = Literal["measured", "below-measured", "above-measured", "never", "unknown"]


@dataclass(frozen=True)
class Curve:
    """TTFT in ms at n tokens: ``a + b n + c n**2``, none of them negative (overhead, prefill, attention).

    Attributes:
        coefficients: float64 [3]: a, b, c.
        error: root mean square of the relative errors over the points.
    """

    coefficients: FloatArray
    error: float

    def __call__(self, n: Any) -> Any:
        """Return the fitted milliseconds at ``n`` tokens, in the shape of ``n``."""
        a, b, c = self.coefficients
        return a + b * n + c * np.square(n)


def fit(tokens: FloatArray, ms: FloatArray) -> Curve:
    """Fit by least squares of the relative errors, so that short prompts count as much as long ones.

    Args:
        tokens: float64 [n], prompt lengths.
        ms: float64 [n], times, positive.
    """
    columns = np.stack([np.ones_like(tokens), tokens, np.square(tokens)], axis=1) / ms[:, None]
    found = non_negative(columns.T @ columns, columns.sum(axis=0))
    return Curve(found, float(np.sqrt(np.square(columns @ found - 1).mean())))


def crossing(direct: Curve, pruned: Curve, longest: float) -> float | None:
    """Return the length from which on the pruned curve is lower, up to ``longest``; 0 where it always is.

    None: at ``longest`` the pruned curve is not lower.
    """
    gain = direct.coefficients - pruned.coefficients
    if np.polyval(gain[::-1], longest) <= 0:
        return None
    below = [r for r in _roots(gain) if 0 < r < longest]
    return max(below, default=0.0)


def _roots(gain: FloatArray) -> list[float]:
    trimmed = np.trim_zeros(gain[::-1], "f")
    roots = np.roots(trimmed) if len(trimmed) > 1 else np.empty(0)
    return sorted(float(r.real) for r in roots if abs(r.imag) < 1e-9 * max(1.0, abs(r.real)))


def break_even(
    tokens: FloatArray, direct_ms: FloatArray, pruned_ms: FloatArray, was_pruned: Any, seed: int = 0
) -> dict[str, Any]:
    """Estimate the break-even prompt length.

    Args:
        tokens: float64 [cases], length of the prompt without pruning.
        direct_ms: float64 [cases], TTFT without pruning.
        pruned_ms: float64 [cases], TTFT through the proxy.
        was_pruned: bool [cases]; where the proxy did not prune, its time says nothing about pruning.
        seed: of the bootstrap over cases.

    Returns:
        ``tokens``: the estimate (null when it lies above all that was measured, or cannot be told), ``ci``,
        ``status``, ``text`` that says what it means, ``measured``: shortest and longest prompt, and the
        fits (``direct``, ``pruned``: a, b, c in ms, ms/token, ms/token**2; relative errors).
    """
    was_pruned = np.asarray(was_pruned, dtype=bool)
    seen = tokens[was_pruned]
    unknown = _why_unknown(seen)
    if unknown is not None:
        return {"tokens": None, "ci": None, "status": "unknown", "text": unknown}
    shortest, longest = float(seen.min()), float(seen.max())
    direct, pruned = fit(tokens, direct_ms), fit(seen, pruned_ms[was_pruned])
    at = crossing(direct, pruned, longest)
    status, text = _say(at, direct, pruned, shortest, longest)
    rng = np.random.default_rng(seed)
    drawn: list[float] = []
    for _ in range(_ROUNDS):
        pick = rng.integers(0, len(tokens), len(tokens))
        mask = was_pruned[pick]
        if len(np.unique(tokens[pick][mask])) < 3:
            continue
        again = crossing(
            fit(tokens[pick], direct_ms[pick]), fit(tokens[pick][mask], pruned_ms[pick][mask]), longest
        )
        drawn.append(np.inf if again is None else again)
    ci = None
    if at is not None and drawn and len(seen) >= ENOUGH:
        # Resamples that never cross are above all others; the bound is null where it falls among them.
        low, high = np.percentile(drawn, [2.5, 97.5], method="closest_observation")
        ci = [float(low), float(high)]
    return {
        "tokens": at,
        "ci": ci,
        "status": status,
        "text": text,
        "measured": [shortest, longest],
        "direct": {"coefficients": direct.coefficients.tolist(), "relative_error": direct.error},
        "pruned": {"coefficients": pruned.coefficients.tolist(), "relative_error": pruned.error},
    }


def _why_unknown(tokens: FloatArray) -> str | None:
    if len(tokens) < _MIN_CASES:
        return f"not known: {len(tokens)} cases were pruned with known lengths, and a fit needs {_MIN_CASES}"
    if len(np.unique(tokens)) < 3 or tokens.max() < _MIN_SPAN * tokens.min():
        return (
            f"not known: the pruned prompts have {tokens.min():.0f} to {tokens.max():.0f} tokens; measure "
            "prompts of different lengths"
        )
    return None


def _say(
    at: float | None, direct: Curve, pruned: Curve, shortest: float, longest: float
) -> tuple[Status, str]:
    if at is None:
        slower = f"pruning does not pay at any length up to {longest:.0f} tokens, the longest that was pruned"
        beyond = crossing(direct, pruned, _FAR * longest)
        if beyond is not None:
            return "above-measured", f"{slower}; the fits would cross at about {beyond:.0f}, unmeasured"
        return "never", f"{slower}, and the fits do not cross up to {_FAR} times that"
    if at >= shortest:
        return "measured", f"pruning pays from about {at:.0f} tokens on"
    guess = f"the fits cross at about {at:.0f}" if at else "the fits do not cross"
    pays = f"pruning pays at every length that was pruned, from {shortest:.0f} tokens on"
    return "below-measured", f"{pays}; below, {guess}, unmeasured"
