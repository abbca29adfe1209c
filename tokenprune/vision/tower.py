"""Run a CLIP or SigLIP vision tower and a LLaVA-type projector, with the attention of one layer and no more.

The tower's own modules do the work; only the loop over its layers is ours, because it ends at the layer the
projector reads, and because one layer's attention weights are wanted and those of the others would be memory
and time spent for nothing (and would force slow attention on all layers).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tokenprune.errors import ModelError
from tokenprune.vision.tokens import VisualTokens

TOWERS = ("clip_vision_model", "siglip_vision_model")
_SUPPORTED = (
    "a checkpoint of LlavaForConditionalGeneration (model type 'llava') or "
    "LlavaOnevisionForConditionalGeneration ('llava_onevision')"
)


@dataclass(frozen=True)
class Features:
    """What a tower and a projector make of b pictures of n patches.

    Attributes:
        features: [b, n, d], behind the projector.
        received: float32 [b, n], see `VisualTokens`.
        cls: float32 [b, n], or None without a CLS token.
        keys: float32 [b, n, k].
        heads: heads in ``keys``.
        grid: rows and columns of patches.
    """

    features: torch.Tensor
    received: torch.Tensor
    cls: torch.Tensor | None
    keys: torch.Tensor
    heads: int
    grid: tuple[int, int]

    @classmethod
    def joined(cls, parts: Sequence[Features]) -> Features:
        """Join batches of one encoder; outside inference mode, so that callers may train on the result."""
        first = parts[0]
        return cls(
            torch.cat([part.features for part in parts]),
            torch.cat([part.received for part in parts]),
            None if first.cls is None else torch.cat([part.cls for part in parts if part.cls is not None]),
            torch.cat([part.keys for part in parts]),
            first.heads,
            first.grid,
        )

    def tokens(self, frames: Sequence[int]) -> list[VisualTokens]:
        """Cut the batch into images and videos; ``frames`` are the pictures of each, in their order."""
        out, at = [], 0
        for count in frames:
            part = slice(at, at + count)
            at += count
            out.append(
                VisualTokens.from_grid(
                    self.features[part].flatten(0, 1),
                    (count, *self.grid),
                    received=self.received[part].flatten(),
                    cls_attention=None if self.cls is None else self.cls[part].flatten(),
                    keys=self.keys[part].flatten(0, 1),
                    heads=self.heads,
                )
            )
        return out


def check_config(config: Any) -> None:
    """Refuse checkpoints whose vision part is none that `tokenprune.vision.families` knows.

    Raises:
        ModelError: with the reason.
    """
    if getattr(config, "vision_config", None) is None:
        raise ModelError(
            f"model type {config.model_type!r} is not supported: it has no vision part; use {_SUPPORTED}"
        )
    if config.model_type not in ("llava", "llava_onevision"):
        raise ModelError(
            f"model type {config.model_type!r} is not supported: its pictures are put together in another "
            f"way; use {_SUPPORTED}"
        )
    check_tower(config)


def check_tower(config: Any) -> None:
    """Refuse vision towers whose layers `read_features` does not know.

    Raises:
        ModelError: with those it knows.
    """
    tower = config.vision_config.model_type
    if tower not in TOWERS:
        raise ModelError(f"vision tower {tower!r} is not supported; supported are: {', '.join(TOWERS)}")


def read_features(
    tower: Any, projector: Any, config: Any, pixels: torch.Tensor, attention_layer: int | None = None
) -> Features:
    """Encode preprocessed pictures, exactly as ``LlavaModel.get_image_features`` does.

    Args:
        tower: a CLIPVisionModel or SiglipVisionModel.
        projector: a LlavaMultiModalProjector or LlavaOnevisionMultiModalProjector.
        config: a LlavaConfig or LlavaOnevisionConfig.
        pixels: float [b, channels, height, width], on the tower's device and in its number format.
        attention_layer: layer of the tower, from 0 or, negative, from its end, whose attention and keys are
            returned; None takes the one whose output the projector reads (in LLaVA-1.5 the penultimate).

    Raises:
        ModelError: a layer the tower does not have.
    """
    layers = tower.encoder.layers
    states, chosen = _layer_numbers(config, len(layers), attention_layer)
    has_cls = hasattr(tower.embeddings, "class_embedding")
    hidden = tower.embeddings(pixels)
    if hasattr(tower, "pre_layrnorm"):
        hidden = tower.pre_layrnorm(hidden)
    found = {0: hidden} if 0 in states else {}
    attention = None
    for number, layer in enumerate(layers[: max(*states, chosen + 1)]):
        if number == chosen:
            attention = _attention(layer, hidden, has_cls)
        if number + 1 <= max(*states, chosen):
            hidden = layer(hidden, None)
        if number + 1 in states:
            found[number + 1] = hidden
    if attention is None:
        raise ModelError("the vision tower has no layers")
    first = 1 if config.vision_feature_select_strategy == "default" else 0
    features = projector(torch.cat([found[state][:, first:] for state in states], dim=-1))
    patch = tower.config.patch_size
    grid = (pixels.shape[-2] // patch, pixels.shape[-1] // patch)
    if features.shape[1] != grid[0] * grid[1]:
        raise ModelError(
            f"the checkpoint reads {features.shape[1]} tokens of {grid[0]} x {grid[1]} patches: set "
            f"vision_feature_select_strategy to {'default' if has_cls else 'full'!r}"
        )
    received, cls, keys = attention
    return Features(features, received, cls, keys, layers[chosen].self_attn.num_heads, grid)


def _layer_numbers(config: Any, count: int, attention_layer: int | None) -> tuple[list[int], int]:
    """Return the hidden states the projector reads (0: the embeddings), and the layer to watch, from 0."""
    asked = config.vision_feature_layer
    states = [n + count + 1 if n < 0 else n for n in ([asked] if isinstance(asked, int) else asked)]
    if not states or not all(0 <= n <= count for n in states):
        raise ModelError(f"vision_feature_layer is {asked}, and the tower has {count} layers")
    if attention_layer is None:
        return states, max(0, max(states) - 1)
    layer = attention_layer + count if attention_layer < 0 else attention_layer
    if not 0 <= layer < count:
        raise ModelError(f"attention_layer is {attention_layer}, and the vision tower has {count} layers")
    return states, layer


def _attention(
    layer: Any, hidden: torch.Tensor, has_cls: bool
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
    """Return attention received and attention of CLS, [b, n] each, and keys [b, n, k], all float32."""
    own = layer.self_attn
    normed = layer.layer_norm1(hidden)
    queries, keys = own.q_proj(normed), own.k_proj(normed)
    first = 1 if has_cls else 0
    received, cls = [], []
    for query, key in zip(queries, keys, strict=True):  # one picture's weights at a time: [heads, n, n]
        q = query.view(len(query), own.num_heads, -1).transpose(0, 1)
        k = key.view(len(key), own.num_heads, -1).permute(1, 2, 0)
        weights = torch.softmax((q @ k).float() * own.scale, dim=-1).mean(0)
        received.append(weights.mean(0)[first:])
        cls.append(weights[0, first:])
    return torch.stack(received), torch.stack(cls) if has_cls else None, keys[:, first:].float()
