"""OpenProvence (hotchpotch/open_provence): any reranker with a token head, mostly ModernBERT.

From its code: config.json has ``model_type`` ``open_provence``, ``base_model_config`` (the reranker's own),
``pruning_config`` (the head's), ``max_length``, and ``default_threadshold``, misspelt. Weights are
``ranking_model.*`` and ``pruning_head.classifier.*``; older folders have the reranker's weights without a
prefix. A pair is framed as the tokenizer frames pairs, and where it frames nothing as ``[CLS] question [SEP]
passage [SEP]``; a title is a line before its passage. Its own scores are sigmoids of our rank logits.

The head was trained on ``hidden_states[-1]`` of transformers 4. ModernBERT's was taken before its final norm,
while transformers 5 gives it after: so the input of that norm is what the head reads. Other backbones have no
norm there. OpenProvence splits and tokenises sentence by sentence; here a passage is tokenised as a whole, as
in its training.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tokenprune.errors import MissingExtraError, ModelError
from tokenprune.models.batches import padded_tokens
from tokenprune.models.labeler.checkpoint import Checkpoint, Place, fill, ready
from tokenprune.models.labeler.labeler import Labeler
from tokenprune.models.labeler.text import pair_frame
from tokenprune.models.labeler.torch_heads import build, config_of, outputs, tensors
from tokenprune.models.labeler.types import DEFAULT_THRESHOLD, Batch, Read

if TYPE_CHECKING:
    import torch

_WINDOW = 512  # where config.json does not say
# Backbones that number positions from behind the padding token's id.
_SHIFTED = ("roberta", "xlm-roberta", "xlm-roberta-xl", "camembert")


def matches(config: dict[str, Any]) -> bool:
    """Tell OpenProvence by its model type."""
    return config.get("model_type") == "open_provence"


@dataclass(frozen=True)
class OpenProvence:
    """`Network`: ``ranking_model`` gives the rank logit, ``pruning_head`` reads its last hidden states.

    Args:
        module: holds both.
        device: where it runs.
        types: whether the backbone reads segment numbers.
    """

    module: Any
    device: str
    types: bool
    _seen: threading.local = field(default_factory=threading.local, repr=False)

    def __post_init__(self) -> None:
        norm = getattr(self.module.ranking_model.base_model, "final_norm", None)
        if norm is not None:
            norm.register_forward_pre_hook(self._before_norm)

    def _before_norm(self, _: Any, args: tuple[Any, ...]) -> None:
        self._seen.state = args[0]

    def run(self, batch: Batch) -> Read:
        """Return rank logits and keep probabilities."""
        import torch

        self._seen.state = None
        with torch.inference_mode():
            out = self.module.ranking_model(
                **tensors(batch, self.device, types=self.types), output_hidden_states=True
            )
            state = out.hidden_states[-1] if self._seen.state is None else self._seen.state
            self._seen.state = None  # do not hold a batch until the next one
            return outputs(out.logits, self.module.pruning_head.classifier(state.float()))


def load(checkpoint: Checkpoint, device: str | None, dtype: str | torch.dtype | None) -> Labeler:
    """Make a labeler; see `Labeler.load`."""
    place = Place.pick(device, dtype)
    network = _network(checkpoint, place)
    reader, roles = checkpoint.reader()
    return Labeler(
        name=checkpoint.name,
        text=reader,
        frame=pair_frame(reader.tokenizer, roles["cls_token"], roles["sep_token"]),
        network=network,
        max_length=_window(checkpoint, network.module.ranking_model.config),
        default_threshold=_threshold(checkpoint),
        title_end="\n",
        batch_tokens=padded_tokens(place.device),
    )


def _network(checkpoint: Checkpoint, place: Place) -> OpenProvence:
    try:
        from torch import nn
        from transformers import AutoModelForSequenceClassification
    except ImportError as error:
        raise MissingExtraError("sentence labeling", "models", error.name or "torch") from error
    base = checkpoint.config.get("base_model_config")
    if not isinstance(base, dict) or not base.get("model_type"):
        raise ModelError(f"the config.json of {checkpoint.name!r} has no base_model_config with a model_type")
    config = config_of(base["model_type"], base, checkpoint.name)
    config.num_labels = int(checkpoint.config.get("num_labels") or 1)
    reranker = build(
        lambda: AutoModelForSequenceClassification.from_config(config, trust_remote_code=False),
        checkpoint.name,
    )
    head = nn.Module()
    options = checkpoint.config.get("pruning_config") or {}
    hidden = int(options.get("hidden_size") or config.hidden_size)
    head.classifier = nn.Linear(hidden, int(options.get("num_labels") or 2))
    if options.get("use_weighted_pooling"):  # has weights; inference does not use them
        head.pooling_weights = nn.Linear(hidden, 1)
    if head.classifier.out_features != 2:
        raise ModelError(f"the token head of {checkpoint.name!r} must have 2 labels")
    module = nn.Module()
    module.ranking_model, module.pruning_head = reranker, head
    weights = checkpoint.weights()
    if not any(key.startswith("ranking_model.") for key in weights):
        weights = {
            k if k.startswith("pruning_head.") else f"ranking_model.{k}": v for k, v in weights.items()
        }
    fill(module, weights, checkpoint.name)
    ready(module, place, [head])
    return OpenProvence(module, place.device, int(getattr(config, "type_vocab_size", 0) or 0) > 1)


def _window(checkpoint: Checkpoint, config: Any) -> int:
    """The window of config.json, as far as the backbone has positions for it."""
    window = int(checkpoint.config.get("max_length") or _WINDOW)
    positions = int(getattr(config, "max_position_embeddings", window) or window)
    if config.model_type in _SHIFTED:
        positions -= int(config.pad_token_id) + 1
    return min(window, positions)


def _threshold(checkpoint: Checkpoint) -> float:
    for key in ("default_threadshold", "default_threshold"):
        value = checkpoint.config.get(key)
        if value is not None:
            try:
                return float(value)
            except (TypeError, ValueError):
                raise ModelError(f"{key} of {checkpoint.name!r} is not a number: {value!r}") from None
    return DEFAULT_THRESHOLD
