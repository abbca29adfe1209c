"""What the torch networks of labelers share: inputs, the two heads, probabilities in float32."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tokenprune.errors import MissingExtraError, ModelError
from tokenprune.models.device import loading_alone
from tokenprune.models.labeler.types import Batch, Read

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig


def tensors(batch: Batch, device: str, *, types: bool) -> dict[str, torch.Tensor]:
    """Return a batch as keyword arguments of a transformers model, with ``token_type_ids`` if asked."""
    import torch

    columns = {"input_ids": batch.ids, "attention_mask": batch.mask}
    if types:
        columns["token_type_ids"] = batch.types
    return {name: torch.from_numpy(column).to(device) for name, column in columns.items()}


def outputs(rank: torch.Tensor, token: torch.Tensor) -> Read:
    """Return the first of the rank logits [b, r] and P(class 1) of the token logits [b, t, 2], as float32."""
    keep = token.float().softmax(dim=-1)[..., 1]
    first = rank[:, 0].float().cpu().numpy()
    return Read(first, first, keep.cpu().numpy())


def build(make: Callable[[], Any], name: str) -> Any:
    """Make a module whose weights will all be overwritten, without the time that drawing them takes.

    Raises:
        MissingExtraError: transformers is not installed.
        ModelError: the config does not describe a model.
    """
    try:
        from transformers.initialization import no_init_weights
    except ImportError as error:
        raise MissingExtraError("sentence labeling", "models", error.name or "transformers") from error
    try:
        with loading_alone(), no_init_weights():
            return make()
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
        raise ModelError(f"the config.json of {name!r} does not describe a model: {error}") from error


def config_of(model_type: str, fields: dict[str, Any], name: str) -> PreTrainedConfig:
    """Return the transformers config of a backbone.

    Args:
        model_type: of the backbone.
        fields: of its config.json; keys that older releases of transformers wrote are understood.
        name: of the checkpoint, for messages.

    Raises:
        MissingExtraError: transformers is not installed.
        ModelError: there is no such backbone, or the fields are not its own.
    """
    try:
        from huggingface_hub.errors import StrictDataclassError
        from transformers import CONFIG_MAPPING
    except ImportError as error:
        raise MissingExtraError("sentence labeling", "models", error.name or "transformers") from error
    if model_type not in CONFIG_MAPPING:
        raise ModelError(f"{name!r} has a backbone of the unknown type {model_type!r}")
    own = {k: v for k, v in fields.items() if k not in ("model_type", "auto_map", "architectures")}
    try:
        return CONFIG_MAPPING[model_type].from_dict(own)
    except (ValueError, TypeError, KeyError, StrictDataclassError) as error:
        raise ModelError(f"the config.json of {name!r} is not one of {model_type}: {error}") from error
