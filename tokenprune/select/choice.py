"""The options that every method shares, turned into a selector."""

from __future__ import annotations

from tokenprune.errors import ConfigError
from tokenprune.select import Selector
from tokenprune.select.simple import KeepRatio, Threshold, TopK


def check_threshold(threshold: float | None, what: str) -> None:
    """Refuse a threshold that none or all of the scores could reach; ``what`` are they, of 0 to 1.

    Raises:
        ConfigError: it lies outside.
    """
    if threshold is not None and not 0 <= threshold <= 1:
        raise ConfigError(f"threshold is compared with {what}: 0 to 1, not {threshold}")


def choose(
    default: Selector,
    threshold: float | None = None,
    keep_ratio: float | None = None,
    top_k: int | None = None,
) -> Selector:
    """Return the selector that one of the options asks for, or the method's own.

    Raises:
        ConfigError: more than one is given.
    """
    given = [
        selector
        for value, selector in (
            (threshold, lambda: Threshold(float(threshold or 0))),
            (keep_ratio, lambda: KeepRatio(float(keep_ratio or 0))),
            (top_k, lambda: TopK(int(top_k or 0))),
        )
        if value is not None
    ]
    if len(given) > 1:
        raise ConfigError("give only one of threshold, keep_ratio and top_k")
    return given[0]() if given else default
