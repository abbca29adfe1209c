"""The options that every method shares, turned into a selector."""

from __future__ import annotations

from tokenprune.errors import ConfigError
from tokenprune.select import Selector
from tokenprune.select.simple import KeepRatio, Threshold, TopK


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
