"""Transformers classes for checkpoints whose layers differ in size; ``Auto*`` find them by ``model_type``.

They are the family's own classes with other layers inside: every attention and FFN is the family's, built
from a copy of the config with the sizes of its layer, so that masks, rotations, caches and attention kernels
stay transformers' own. Importing this module registers the classes.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.models.llama.modeling_llama import LlamaDecoderLayer
from transformers.models.mistral.modeling_mistral import MistralDecoderLayer
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer
from transformers.models.qwen3.modeling_qwen3 import Qwen3DecoderLayer

from tokenprune.weights.shapes import MODEL_TYPES, LayerShape, from_config


class Constant(nn.Module):  # type: ignore[misc]
    """What is left of a projection without inputs: its bias."""

    def __init__(self, size: int) -> None:
        """Make a bias of ``size`` zeros."""
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(size))

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Return the bias, whatever comes in."""
        return self.bias


class DroppedAttention(nn.Module):  # type: ignore[misc]
    """Stands where attention was dropped.

    A KV cache learns its length, and from it positions and masks, from what is stored for the first layer. So
    something is stored here too: one number a token.
    """

    def __init__(self, size: int, layer_idx: int, biased: bool) -> None:
        """Stand in layer ``layer_idx``; ``biased``: a constant of ``size`` numbers is left."""
        super().__init__()
        self.layer_idx = layer_idx
        self.o_proj = Constant(size) if biased else None

    def forward(self, hidden_states: torch.Tensor, past_key_values: Any = None) -> torch.Tensor:
        """Add the constant, if any, to ``hidden_states`` [batch, tokens, hidden], and count the tokens."""
        if past_key_values is not None:
            counted = hidden_states.new_zeros(hidden_states.shape[0], 1, hidden_states.shape[1], 1)
            past_key_values.update(counted, counted, self.layer_idx)
        return hidden_states if self.o_proj is None else hidden_states + self.o_proj(hidden_states)


class DroppedMLP(nn.Module):  # type: ignore[misc]
    """Stands where an FFN was dropped."""

    def __init__(self, size: int, biased: bool) -> None:
        """Leave a constant of ``size`` numbers if ``biased``."""
        super().__init__()
        self.down_proj = Constant(size) if biased else None

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Add the constant, if any, to ``hidden_states`` [batch, tokens, hidden]."""
        return hidden_states if self.down_proj is None else hidden_states + self.down_proj(hidden_states)


class _PrunedLayer:
    """The family's decoder layer with the sizes of one layer, and without its dropped sublayers."""

    def __init__(self, config: Any, layer_idx: int, shape: LayerShape) -> None:
        super().__init__(_of_layer(config, shape), layer_idx)  # type: ignore[call-arg]
        size = config.hidden_size
        layer: Any = self
        if shape.kv_heads:
            # The attention implementation is looked up here at every call, and may be changed later.
            layer.self_attn.config = config
            _rebias(layer.self_attn, "o_proj", shape.o_bias)
        else:
            layer.self_attn = DroppedAttention(size, layer_idx, shape.o_bias)
            del layer.input_layernorm
        if shape.intermediate_size:
            _rebias(layer.mlp, "down_proj", shape.down_bias)
        else:
            layer.mlp = DroppedMLP(size, shape.down_bias)
            del layer.post_attention_layernorm

    def forward(self, hidden_states: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """Run the layer on ``hidden_states`` [batch, tokens, hidden]."""
        layer: Any = self
        if isinstance(layer.self_attn, DroppedAttention):
            hidden_states = layer.self_attn(hidden_states, kwargs.get("past_key_values"))
        else:
            attended, _ = layer.self_attn(hidden_states=layer.input_layernorm(hidden_states), **kwargs)
            hidden_states = hidden_states + attended
        if isinstance(layer.mlp, DroppedMLP):
            return layer.mlp(hidden_states)
        return hidden_states + layer.mlp(layer.post_attention_layernorm(hidden_states))


def _of_layer(config: Any, shape: LayerShape) -> Any:
    """A copy of ``config`` with the sizes of a layer; a dropped part is made as small as it can be."""
    own = copy.copy(config)
    ratio = config.num_attention_heads // config.num_key_value_heads
    own.head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    own.num_key_value_heads = max(shape.kv_heads, 1)
    own.num_attention_heads = own.num_key_value_heads * ratio
    own.intermediate_size = max(shape.intermediate_size, 1)
    return own


def _rebias(module: Any, name: str, biased: bool) -> None:
    linear = getattr(module, name)
    if (linear.bias is not None) != biased:
        setattr(module, name, nn.Linear(linear.in_features, linear.out_features, bias=biased))


class _Pruned:
    """The family's causal LM with layers of the sizes that its config lists."""

    pruned_layer: type

    def __init__(self, config: Any) -> None:
        shapes = from_config(config)
        layers, config.num_hidden_layers = config.num_hidden_layers, 0  # the dense layers are never made
        try:
            super().__init__(config)  # type: ignore[call-arg]
        finally:
            config.num_hidden_layers = layers
        model: Any = self
        model.model.layers = nn.ModuleList(self.pruned_layer(config, i, s) for i, s in enumerate(shapes))
        model.model.post_init()
        model.post_init()


class PrunedLlamaConfig(LlamaConfig):  # type: ignore[misc]
    """A Llama config with ``prune_layers``."""

    model_type = MODEL_TYPES["llama"]
    prune_layers: list[dict[str, Any]] | None = None


class PrunedMistralConfig(MistralConfig):  # type: ignore[misc]
    """A Mistral config with ``prune_layers``."""

    model_type = MODEL_TYPES["mistral"]
    prune_layers: list[dict[str, Any]] | None = None


class PrunedQwen2Config(Qwen2Config):  # type: ignore[misc]
    """A Qwen2 config with ``prune_layers``."""

    model_type = MODEL_TYPES["qwen2"]
    prune_layers: list[dict[str, Any]] | None = None


class PrunedQwen3Config(Qwen3Config):  # type: ignore[misc]
    """A Qwen3 config with ``prune_layers``."""

    model_type = MODEL_TYPES["qwen3"]
    prune_layers: list[dict[str, Any]] | None = None


CONFIGS: dict[str, Any] = {
    "llama": PrunedLlamaConfig,
    "mistral": PrunedMistralConfig,
    "qwen2": PrunedQwen2Config,
    "qwen3": PrunedQwen3Config,
}


class PrunedLlamaLayer(_PrunedLayer, LlamaDecoderLayer):  # type: ignore[misc]
    """One layer of `PrunedLlamaForCausalLM`."""


class PrunedMistralLayer(_PrunedLayer, MistralDecoderLayer):  # type: ignore[misc]
    """One layer of `PrunedMistralForCausalLM`."""


class PrunedQwen2Layer(_PrunedLayer, Qwen2DecoderLayer):  # type: ignore[misc]
    """One layer of `PrunedQwen2ForCausalLM`."""


class PrunedQwen3Layer(_PrunedLayer, Qwen3DecoderLayer):  # type: ignore[misc]
    """One layer of `PrunedQwen3ForCausalLM`."""


class TokenPruneLlamaForCausalLM(_Pruned, LlamaForCausalLM):  # type: ignore[misc]
    """A pruned Llama."""

    config_class = PrunedLlamaConfig
    pruned_layer = PrunedLlamaLayer
    _no_split_modules = ["PrunedLlamaLayer"]  # noqa: RUF012


class TokenPruneMistralForCausalLM(_Pruned, MistralForCausalLM):  # type: ignore[misc]
    """A pruned Mistral."""

    config_class = PrunedMistralConfig
    pruned_layer = PrunedMistralLayer
    _no_split_modules = ["PrunedMistralLayer"]  # noqa: RUF012


class TokenPruneQwen2ForCausalLM(_Pruned, Qwen2ForCausalLM):  # type: ignore[misc]
    """A pruned Qwen2."""

    config_class = PrunedQwen2Config
    pruned_layer = PrunedQwen2Layer
    _no_split_modules = ["PrunedQwen2Layer"]  # noqa: RUF012


class TokenPruneQwen3ForCausalLM(_Pruned, Qwen3ForCausalLM):  # type: ignore[misc]
    """A pruned Qwen3."""

    config_class = PrunedQwen3Config
    pruned_layer = PrunedQwen3Layer
    _no_split_modules = ["PrunedQwen3Layer"]  # noqa: RUF012


MODELS: dict[str, Any] = {
    "llama": TokenPruneLlamaForCausalLM,
    "mistral": TokenPruneMistralForCausalLM,
    "qwen2": TokenPruneQwen2ForCausalLM,
    "qwen3": TokenPruneQwen3ForCausalLM,
}


for _family, _config in CONFIGS.items():
    AutoConfig.register(_config.model_type, _config, exist_ok=True)
    AutoModelForCausalLM.register(_config, MODELS[_family], exist_ok=True)
