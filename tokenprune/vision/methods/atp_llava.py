"""ATP-LLaVA: thresholds that small trained heads set for each prompt and layer.

ATP-LLaVA, arXiv 2412.00447; the module, what of it is published and what is ours, is
:mod:`tokenprune.vision.atp`, its training :mod:`tokenprune.vision.atp_train`. Here the decision is hard. How
many tokens stay differs from prompt to prompt: the budget was set when the heads were trained. The paper
trains the language model along and reports 98.1 % of the quality at 144 of 576 tokens; with a frozen one, as
here, it reports somewhat less.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tokenprune.engine.schedule import LayerView, Reduction
from tokenprune.errors import ConfigError, ModelError
from tokenprune.models.catalog import resolve_model
from tokenprune.vision.methods.base import named

if TYPE_CHECKING:
    import torch

    from tokenprune.vision.atp import ATPModule

WEIGHTS = Path("atp.safetensors")  # beside a model's own


@dataclass(frozen=True, slots=True)
class ATPLLaVA:
    """The reducer.

    Attributes:
        module: Trained for the language model at hand.
    """

    module: ATPModule

    def acts_after(self, layer: int, depth: int) -> bool:
        """Tell whether the module has a head for ``layer``.

        Raises:
            ModelError: The module is for a model of another depth.
        """
        if depth != self.module.config.depth:
            raise ModelError(
                f"this ATP module is for {self.module.config.depth} layers, the model has {depth}: train one"
            )
        return layer in self.module.config.layers

    def reduce(self, view: LayerView) -> Reduction | None:
        """Keep text, pinned tokens, and visual tokens above a threshold, at least the best one.

        Raises:
            ConfigError: It is not known where in their pictures the visual tokens are from.
            ModelError: The module is for another hidden size.
        """
        import torch

        visual = view.visual
        if visual is None or not bool(visual.any()):
            return None
        if view.places is None:
            raise ConfigError("atp-llava samples the patch grid: give the prompt the places of its tokens")
        config = self.module.config
        if view.hidden.shape[1] != config.hidden:
            raise ModelError(
                f"this ATP module is for hidden size {config.hidden} and the model has {view.hidden.shape[1]}"
            )
        rows = len(view.hidden)
        self.module.to(view.hidden.device)
        with torch.no_grad():
            margin = self.module(
                view.layer,
                view.hidden[None],
                view.query[None],
                view.keys[None, :, -rows:],
                view.scale,
                visual=visual[None],
                asking=asking(visual)[None],
                places=view.places[None],
                weight=torch.zeros((1, rows), device=view.hidden.device),
            ).margin[0]
        stays = ~visual | view.pinned | (margin > 0)
        return None if bool(stays.all()) else Reduction(stays.nonzero()[:, 0])


def asking(visual: torch.Tensor) -> torch.Tensor:
    """Return the text whose attention counts, bool [n]: that behind the first visual token, else all text."""
    behind = ~visual & (visual.long().cumsum(0) > 0)
    return behind if bool(behind.any()) else ~visual


@named(
    "atp-llava",
    paper="ATP-LLaVA, arXiv 2412.00447",
    summary="thresholds that trained heads set for each prompt and layer of the language model",
    where="inside",
)
def atp_llava(weights: str) -> ATPLLaVA:
    """Compose the method.

    ``weights``: a file of ``ATPModule.save``, trained for the model by
    ``tokenprune.vision.atp_train.train_atp``; or a model (name or folder) that has it beside its own weights
    as atp.safetensors, as llava-mini does.
    """
    from tokenprune.vision.atp import ATPModule

    return ATPLLaVA(ATPModule.load(_file(weights)))


def _file(weights: str) -> Path:
    """Return the file that is named, or that of the model that is named."""
    file = Path(weights)
    if file.is_file() or file.suffix == WEIGHTS.suffix:
        return file
    return Path(resolve_model(weights)) / WEIGHTS
