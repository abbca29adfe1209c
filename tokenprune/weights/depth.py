"""Dropping whole layers by block influence, or sublayers one after the other by what the output loses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import PositiveInt

from tokenprune.errors import RecipeError
from tokenprune.models.progress import SILENT, Reporter
from tokenprune.weights.influence import similarities
from tokenprune.weights.journal import Journal
from tokenprune.weights.kept import Kept, LayerKept
from tokenprune.weights.stream import Stream

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class BlockInfluence:
    """ShortGPT: drop the layers that move the hidden states least (Men et al. 2024, arXiv 2403.03853)."""

    def run(
        self,
        model: Any,
        windows: torch.Tensor,
        sparsity: float,
        reporter: Reporter = SILENT,
        journal: Journal | None = None,
    ) -> Kept:
        """Return what stays; the number of layers is the nearest to the share. The model stays as it is."""
        journal = journal or Journal()
        cosines = journal.once("cosines", lambda: similarities(model, windows, reporter))
        count = round(sparsity * len(cosines))
        if count >= len(cosines):
            raise RecipeError(f"a sparsity of {sparsity} would drop all {len(cosines)} layers")
        gone = set(sorted(range(len(cosines)), key=lambda i: -cosines[i])[:count])
        whole = Kept.all_of(model.config)
        return Kept(tuple(_without(layer, i in gone, i in gone) for i, layer in enumerate(whole.layers)))


@dataclass(frozen=True)
class OutputChange:
    """FinerCut: drop the sublayer whose loss changes the model's output least, again and again.

    Zhang et al. 2024, arXiv 2405.18218, algorithm 1. States before each layer are kept, so that a trial costs
    only the layers behind it.

    Attributes:
        windows: Windows used of the calibration text.
        measure: What change is, as a mean over tokens: the Jensen-Shannon divergence of what is predicted, in
            nats, or 1 - cos of the normed last hidden states.
        every: One token in so many is compared by predictions: these cost a product with the vocabulary.
    """

    windows: PositiveInt = 2
    measure: Literal["predictions", "states"] = "predictions"
    every: PositiveInt = 4

    def run(
        self,
        model: Any,
        windows: torch.Tensor,
        sparsity: float,
        reporter: Reporter = SILENT,
        journal: Journal | None = None,
    ) -> Kept:
        """Return what stays; drops until the layers' parameters meet the target. The model stays as it is.

        A sublayer that no longer fits the target is not tried, so the target is missed by less than the
        smallest sublayer.
        """
        config, journal = model.config, journal or Journal()
        kept = Kept.all_of(config)
        stream = Stream(model, windows[: self.windows])
        embedded = stream.hidden
        whole = sum(kept.layer_params(config, i) for i in range(len(kept.layers)))
        left = round(sparsity * whole)
        reporter.stage("dropping sublayers", float(max(left, 1)))
        reference = self._seen(model, self._behind(model, stream, kept, 0, embedded))
        done = journal.get("dropped")
        if done is not None:
            kept, left = Kept.of_plain(done["kept"]), done["left"]
        while True:
            states = [embedded]
            for index, layer in enumerate(kept.layers):
                states.append(_run(model, stream, index, layer, states[-1]))
            best: tuple[float, Kept, int] | None = None
            for index, layer in enumerate(kept.layers):
                for attention in (True, False):
                    if not (layer.attention if attention else layer.mlp):
                        continue
                    trial = Kept(
                        (
                            *kept.layers[:index],
                            _without(layer, attention, not attention),
                            *kept.layers[index + 1 :],
                        )
                    )
                    cost = kept.layer_params(config, index) - trial.layer_params(config, index)
                    if cost > left or all(one.empty for one in trial.layers):
                        continue
                    output = self._behind(model, stream, trial, index, states[index])
                    change = self._change(reference, self._seen(model, output))
                    if best is None or change < best[0]:
                        best = change, trial, cost
            if best is None:
                return kept
            kept, left = best[1], left - best[2]
            journal.put("dropped", {"kept": kept.plain(), "left": left})
            reporter.advance(best[2])

    def _seen(self, model: Any, states: torch.Tensor) -> torch.Tensor:
        """Return what is compared of normed last states: themselves, or logarithms of probabilities."""
        import torch

        if self.measure == "states":
            return states
        with torch.no_grad():
            found: torch.Tensor = (
                model.lm_head(states[:, self.every - 1 :: self.every]).float().log_softmax(-1)
            )
        return found

    def _change(self, reference: torch.Tensor, output: torch.Tensor) -> float:
        import torch

        if self.measure == "states":
            return 1 - float(torch.cosine_similarity(reference, output, dim=-1).double().mean())
        return float(jensen_shannon(reference, output).double().mean())

    def _behind(
        self, model: Any, stream: Stream, kept: Kept, first: int, hidden: torch.Tensor
    ) -> torch.Tensor:
        """Return the normed last states, from states before layer ``first``."""
        import torch

        for index in range(first, len(kept.layers)):
            hidden = _run(model, stream, index, kept.layers[index], hidden)
        with torch.no_grad():
            found: torch.Tensor = model.model.norm(hidden)
        return found


def jensen_shannon(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Return the divergence of two distributions given as logarithms [..., n], in nats: 0 to ln 2, [...]."""
    import torch

    parts = first.exp(), second.exp()
    mean = ((parts[0] + parts[1]) / 2).clamp_min(torch.finfo(first.dtype).tiny)
    one, other = (torch.special.xlogy(part, part / mean).sum(-1) for part in parts)
    return (one + other) / 2


def _run(model: Any, stream: Stream, index: int, kept: LayerKept, hidden: torch.Tensor) -> torch.Tensor:
    """Run a layer without its dropped sublayers."""
    if kept.empty:
        return hidden
    layer = model.model.layers[index]
    handles = []
    if not kept.attention:
        handles.append(layer.self_attn.register_forward_hook(lambda m, i, o: (o[0] * 0, *o[1:])))
    if not kept.mlp:
        handles.append(layer.mlp.register_forward_hook(lambda m, i, o: o * 0))
    try:
        return stream.outputs(index, hidden)
    finally:
        for handle in handles:
            handle.remove()


def _without(layer: LayerKept, attention: bool, mlp: bool) -> LayerKept:
    return LayerKept(
        layer.attention and not attention,
        () if attention else layer.kv_heads,
        layer.mlp and not mlp,
        () if mlp else layer.channels,
        layer.experts,
    )
