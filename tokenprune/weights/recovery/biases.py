"""Biases for a pruned model that has none: PERP trains them (Zimmer et al. 2023, arXiv 2312.15230)."""

from __future__ import annotations

from typing import Any

from tokenprune.weights.kept import DENSE, Kept, Shape
from tokenprune.weights.materialise import materialise
from tokenprune.weights.shapes import KEY, MODEL_TYPES


def with_biases(model: Any) -> Any:
    """Return a model that computes the same and has a bias on every ``o_proj`` and ``down_proj``.

    A plain Llama stays one, and gets all biases that its class can hold; other plain models become our class.
    Of our class ``model`` itself is changed; a sublayer that was dropped stays so. A model of experts has no
    place for biases and is returned as it is.

    Args:
        model: Any pruned model of a known family.
    """
    import torch

    config = model.config
    if config.model_type in DENSE:
        shape = Shape.of(config)
        if shape.o_bias and shape.mlp_bias:
            return model
        zeros = {
            f"layers.{index}.{kind}": torch.zeros(shape.hidden)
            for index in range(shape.layers)
            for kind in ("o_bias", "down_bias")
        }
        return materialise(model, Kept.all_of(config), zeros)
    if config.model_type in MODEL_TYPES.values():
        entries = getattr(config, KEY)
        for layer, entry in zip(model.model.layers, entries, strict=True):
            for owner, name, there, key in (
                (layer.self_attn, "o_proj", entry["kv_heads"], "o_bias"),
                (layer.mlp, "down_proj", entry["intermediate_size"], "down_bias"),
            ):
                linear = getattr(owner, name)
                if there and linear.bias is None:
                    like = linear.weight
                    linear.bias = torch.nn.Parameter(like.new_zeros(like.shape[0]))
                    entry[key] = True
    return model
