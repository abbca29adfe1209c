"""Calibration windows on their way through a decoder, layer by layer: one layer's statistics at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from tokenprune.weights.sites import sites
from tokenprune.weights.statistics import InputStats

if TYPE_CHECKING:
    import torch

_BATCH_TOKENS = 4096


class Stream:
    """The hidden states of all windows before some layer; they advance layer by layer.

    Attributes:
        hidden: float [windows, tokens, hidden size].
    """

    def __init__(self, model: Any, windows: torch.Tensor) -> None:
        """Embed ``windows`` [n, tokens] int64; all have one length, so all share masks and positions."""
        import torch

        self.layers = list(model.model.layers)
        self._step = max(1, _BATCH_TOKENS // windows.shape[1])
        self._arguments: list[dict[str, Any]] = [{} for _ in self.layers]
        with torch.no_grad(), ExitStack() as stack:
            # what each layer is given besides hidden states (mask, rotation) depends on the family
            for kwargs, layer in zip(self._arguments, self.layers, strict=True):
                stack.callback(layer.register_forward_pre_hook(_remember(kwargs), with_kwargs=True).remove)
            model.model(windows[:1], use_cache=False)
            self.hidden = model.model.embed_tokens(windows)

    def arguments(self, layer: int) -> dict[str, Any]:
        """Return what the model gives a layer besides hidden states."""
        return dict(self._arguments[layer])

    def batches(self, hidden: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor]]:
        """Yield slices of windows and their states."""
        for first in range(0, len(hidden), self._step):
            part = slice(first, first + self._step)
            yield part, hidden[part]

    def call(self, layer: int, hidden: torch.Tensor, weights: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Run a layer on hidden states [n, tokens, hidden size], with ``weights`` in place of parameters."""
        from torch.func import functional_call

        given = self._arguments[layer]
        found = functional_call(self.layers[layer], dict(weights), (hidden,), given)
        out: torch.Tensor = found[0] if isinstance(found, tuple) else found
        return out

    def outputs(self, layer: int, hidden: torch.Tensor) -> torch.Tensor:
        """Return what a layer makes of hidden states [n, tokens, hidden size]."""
        import torch

        out = torch.empty_like(hidden)
        with torch.no_grad():
            for part, states in self.batches(hidden):
                out[part] = self.call(layer, states, {})
        return out

    def observe(self, layer: int, gram: frozenset[str] = frozenset()) -> dict[str, InputStats]:
        """Pass all states through a layer without advancing; return statistics of each site's inputs.

        Args:
            layer: Index.
            gram: Names of sites whose X X^T is summed too; ``*`` means all.
        """
        stats: dict[str, InputStats] = {}
        with ExitStack() as stack:
            for site in sites(self.layers[layer]):
                width = next(iter(site.matrices.values())).shape[1]
                stats[site.name] = InputStats(width, "*" in gram or site.name in gram)
                stack.callback(site.watch(stats[site.name].add).remove)
            self._last = self.outputs(layer, self.hidden)
        return stats

    def advance(self, layer: int, reuse: bool = False) -> None:
        """Go behind a layer; ``reuse``: with the outputs that `observe` computed (nothing changed since)."""
        self.hidden = self._last if reuse else self.outputs(layer, self.hidden)


def _remember(kwargs: dict[str, Any]) -> Any:
    def hook(module: Any, inputs: Any, given: dict[str, Any]) -> None:
        kwargs.update({k: v for k, v in given.items() if k not in ("past_key_values", "hidden_states")})

    return hook
