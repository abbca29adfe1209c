"""The vLLM model of checkpoints whose layers differ in size; loaded by vLLM through `tokenprune.vllm_plugin`.

vLLM's Llama with other layers inside. One class serves all families: with a bias on q, k and v Llama's
attention is Qwen2's, with norms on query and key heads it is Qwen3's, and a sliding window is read from the
config. What is dropped is not there: no weights, no kernel launch and no KV cache.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from vllm.config import VllmConfig
from vllm.distributed import get_tensor_model_parallel_world_size
from vllm.model_executor.layers.layernorm import RMSNorm
from vllm.model_executor.layers.linear import RowParallelLinear
from vllm.model_executor.models.llama import LlamaAttention, LlamaForCausalLM, LlamaMLP
from vllm.model_executor.models.utils import extract_layer_index

from tokenprune.errors import ModelError
from tokenprune.weights.shapes import MODEL_TYPES, LayerShape, from_config


class Constant(nn.Module):  # type: ignore[misc]
    """What is left of a projection without inputs: its bias."""

    def __init__(self, size: int) -> None:
        """Make room for a bias of ``size`` numbers."""
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(size), requires_grad=False)


class Dropped(nn.Module):  # type: ignore[misc]
    """Stands where a sublayer was dropped of which a constant is left; ``name`` is that of its projection."""

    def __init__(self, size: int, name: str) -> None:
        """Make room for the constant [size]."""
        super().__init__()
        self.name = name
        self.add_module(name, Constant(size))

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Add the constant to ``hidden_states`` [tokens, hidden]."""
        return hidden_states + getattr(self, self.name).bias


class PrunedAttention(LlamaAttention):  # type: ignore[misc]
    """Attention with the KV groups that are left, of any of the families."""

    def __init__(self, config: Any, shape: LayerShape, vllm_config: VllmConfig, prefix: str) -> None:
        """Build the attention of one layer."""
        ratio = config.num_attention_heads // config.num_key_value_heads
        super().__init__(
            config=config,
            hidden_size=config.hidden_size,
            num_heads=shape.kv_heads * ratio,
            num_kv_heads=shape.kv_heads,
            max_position_embeddings=config.max_position_embeddings,
            quant_config=vllm_config.quant_config,
            bias=config.model_type == MODEL_TYPES["qwen2"] or bool(getattr(config, "attention_bias", False)),
            bias_o_proj=shape.o_bias,
            cache_config=vllm_config.cache_config,
            prefix=prefix,
        )
        self.qk_norm = config.model_type == MODEL_TYPES["qwen3"]
        if self.qk_norm:
            self.q_norm = RMSNorm(self.head_dim, eps=config.rms_norm_eps)
            self.k_norm = RMSNorm(self.head_dim, eps=config.rms_norm_eps)

    def forward(self, positions: torch.Tensor, hidden_states: torch.Tensor) -> torch.Tensor:
        """Attend from ``hidden_states`` [tokens, hidden] at ``positions`` [tokens]."""
        if not self.qk_norm:
            return super().forward(positions, hidden_states)
        qkv, _ = self.qkv_proj(hidden_states)
        q, k, v = qkv.split([self.q_size, self.kv_size, self.kv_size], dim=-1)
        q = self.q_norm(q.view(*q.shape[:-1], -1, self.head_dim)).view(q.shape)
        k = self.k_norm(k.view(*k.shape[:-1], -1, self.head_dim)).view(k.shape)
        q, k = self.rotary_emb(positions, q, k)
        output, _ = self.o_proj(self.attn(q, k, v))
        return output


class PrunedLayer(nn.Module):  # type: ignore[misc]
    """A decoder layer with the sizes of ``prune_layers``, and without its dropped sublayers."""

    def __init__(self, vllm_config: VllmConfig, prefix: str = "", config: Any = None) -> None:
        """Build the layer that ``prefix`` names."""
        super().__init__()
        config = config or vllm_config.model_config.hf_config
        index = extract_layer_index(prefix)
        shape = from_config(config)[index]
        _check_parallel(index, shape)
        size, eps = config.hidden_size, config.rms_norm_eps
        self.attends, self.feeds = shape.kv_heads > 0, shape.intermediate_size > 0
        self.self_attn: Any = None
        self.mlp: Any = None
        if self.attends:
            self.input_layernorm = RMSNorm(size, eps=eps)
            self.self_attn = PrunedAttention(config, shape, vllm_config, f"{prefix}.self_attn")
        elif shape.o_bias:
            self.self_attn = Dropped(size, "o_proj")
        if self.feeds:
            self.post_attention_layernorm = RMSNorm(size, eps=eps)
            self.mlp = _mlp(config, shape, vllm_config, f"{prefix}.mlp")
        elif shape.down_bias:
            self.mlp = Dropped(size, "down_proj")

    def forward(
        self, positions: torch.Tensor, hidden_states: torch.Tensor, residual: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Run the layer.

        Args:
            positions: [tokens].
            hidden_states: [tokens, hidden], the output of the last sublayer, not yet added.
            residual: [tokens, hidden], what it is to be added to; None before the first sublayer.

        Returns:
            The same two after this layer.
        """
        if self.attends:
            hidden_states, residual = _norm(self.input_layernorm, hidden_states, residual)
            hidden_states = self.self_attn(positions=positions, hidden_states=hidden_states)
        elif self.self_attn is not None:
            hidden_states = self.self_attn(hidden_states)
        if self.feeds:
            hidden_states, residual = _norm(self.post_attention_layernorm, hidden_states, residual)
            hidden_states = self.mlp(hidden_states)
        elif self.mlp is not None:
            hidden_states = self.mlp(hidden_states)
        return hidden_states, residual


class TokenPruneForCausalLM(LlamaForCausalLM):  # type: ignore[misc]
    """A pruned Llama, Mistral, Qwen2 or Qwen3."""

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        """Build the model that vLLM's configuration describes."""
        config = vllm_config.model_config.hf_config
        if not any(shape.kv_heads for shape in from_config(config)):
            raise ModelError("no attention is left in this model; vLLM serves only models that keep some")
        super().__init__(vllm_config=vllm_config, prefix=prefix, layer_type=PrunedLayer)


def _norm(
    norm: Any, hidden_states: torch.Tensor, residual: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    if residual is None:
        return norm(hidden_states), hidden_states
    normed: tuple[torch.Tensor, torch.Tensor] = norm(hidden_states, residual)
    return normed


def _mlp(config: Any, shape: LayerShape, vllm_config: VllmConfig, prefix: str) -> LlamaMLP:
    biased = bool(getattr(config, "mlp_bias", False))
    mlp = LlamaMLP(
        hidden_size=config.hidden_size,
        intermediate_size=shape.intermediate_size,
        hidden_act=config.hidden_act,
        quant_config=vllm_config.quant_config,
        bias=biased,
        prefix=prefix,
    )
    if shape.down_bias != biased:
        mlp.down_proj = RowParallelLinear(
            input_size=shape.intermediate_size,
            output_size=config.hidden_size,
            bias=shape.down_bias,
            quant_config=vllm_config.quant_config,
            prefix=f"{prefix}.down_proj",
        )
    return mlp


def _check_parallel(index: int, shape: LayerShape) -> None:
    """Raise ModelError when a layer cannot be shared out among the tensor-parallel workers."""
    degree = get_tensor_model_parallel_world_size()
    groups, width = shape.kv_heads, shape.intermediate_size
    if width % degree or (groups % degree and degree % max(groups, 1)):
        raise ModelError(
            f"layer {index} has {groups} KV heads and {width} FFN channels, which {degree} tensor-parallel "
            f"workers cannot share; serve with a degree that divides both, or prune in steps of {degree}"
        )
