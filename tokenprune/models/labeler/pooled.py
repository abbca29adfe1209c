"""A backbone with two linear heads: the layout that naver's labelers share.

Rank score = ``classifier(pooled first token)``, first logit; keep probability = softmax of
``token_classifier(last hidden state)``, class 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tokenprune.models.labeler.checkpoint import Checkpoint, Place, fill, ready
from tokenprune.models.labeler.torch_heads import build, outputs, tensors
from tokenprune.models.labeler.types import Batch, Read

if TYPE_CHECKING:
    import torch

Pool = Callable[[Any, "torch.Tensor"], "torch.Tensor"]  # (module, backbone output) -> [b, hidden]


@dataclass(frozen=True)
class Pooled:
    """`Network` of a module that holds ``backbone``, ``classifier`` and ``token_classifier``.

    Args:
        module: with the parts under the names the checkpoint has.
        backbone: name of the encoder in it.
        pool: module and output of the encoder -> what the rank head reads.
        device: where the module runs.
    """

    module: Any
    backbone: str
    pool: Callable[[Any, Any], Any]
    device: str

    def run(self, batch: Batch) -> Read:
        """Return rank logits and keep probabilities; segment numbers are not used, as in training."""
        import torch

        with torch.inference_mode():
            out = getattr(self.module, self.backbone)(**tensors(batch, self.device, types=False))
            rank = self.module.classifier(self.pool(self.module, out).float())
            return outputs(rank, self.module.token_classifier(out.last_hidden_state.float()))


def load_pooled(
    checkpoint: Checkpoint,
    place: Place,
    backbone: str,
    make: Callable[[], Any],
    extra: Mapping[str, Callable[[], Any]],
    pool: Callable[[Any, Any], Any],
) -> Pooled:
    """Build the network of a checkpoint and fill it.

    Args:
        checkpoint: with weights ``{backbone}.*``, ``classifier.*``, ``token_classifier.*`` and the extras'.
        place: where it runs.
        backbone: name of the encoder.
        make: builds the encoder; it has ``config.hidden_size``.
        extra: builds what else has weights (a pooler), by name; kept in float32 as the heads are.
        pool: see `Pooled`.

    Raises:
        ModelError: the weights do not fit.
    """
    from torch import nn

    weights = checkpoint.weights()
    module = nn.Module()
    encoder = build(make, checkpoint.name)
    hidden = int(encoder.config.hidden_size)
    # Cross-encoders come with one logit or two, whatever num_labels says; the first one is the rank.
    ranks = weights.get("classifier.weight")
    module.add_module(backbone, encoder)
    heads = {name: build(head, checkpoint.name) for name, head in extra.items()}
    heads["classifier"] = nn.Linear(hidden, 1 if ranks is None else len(ranks))
    heads["token_classifier"] = nn.Linear(hidden, 2)
    for name, head in heads.items():
        module.add_module(name, head)
    fill(module, weights, checkpoint.name)
    ready(module, place, heads.values())
    return Pooled(module, backbone, pool, place.device)
