"""The weights of a loaded transformers model, read once: fused projections that share its memory."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tokenprune.errors import ModelError

if TYPE_CHECKING:
    import torch

FAMILIES = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
# While weights are laid side by side nobody else may look where they lie.
_laying = threading.Lock()
# Vision-language models that put features in the places of placeholders and read on as the families above.
SEEING_FAMILIES = ("LlavaForConditionalGeneration", "LlavaOnevisionForConditionalGeneration")


@dataclass(frozen=True, slots=True)
class Projection:
    """A linear map.

    Attributes:
        weight: [out, in].
        bias: [out] or None.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None

    def part(self, first: int, last: int) -> Projection:
        """Return the map to the outputs ``first`` to ``last``; a view."""
        return Projection(self.weight[first:last], None if self.bias is None else self.bias[first:last])


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One decoder layer with H query heads and G key heads of d dimensions.

    Attributes:
        qkv: to (H + 2 G) d outputs: queries, keys, values.
        out: from H d to the hidden size.
        gate_up: to 2 F outputs: gate, up.
        down: from F to the hidden size.
        input_norm: [hidden], before attention.
        middle_norm: [hidden], before the feed-forward part.
        q_norm: [d], of each query head before rotation (Qwen3), or None.
        k_norm: [d], of each key head, or None.
        window: A token sees itself and the ``window`` - 1 positions before it; None: all.
    """

    qkv: Projection
    out: Projection
    gate_up: Projection
    down: Projection
    input_norm: torch.Tensor
    middle_norm: torch.Tensor
    q_norm: torch.Tensor | None
    k_norm: torch.Tensor | None
    window: int | None


@dataclass(frozen=True, slots=True)
class DecoderWeights:
    """A whole decoder.

    Attributes:
        layers: In order.
        embedding: [vocabulary, hidden].
        norm: [hidden], behind the last layer.
        head: To the vocabulary; its weight may be the embedding.
        rotary: A copy of the model's rotary module: (any tensor, positions [1, n]) -> cos, sin [1, n, d].
        activation: Of the gate.
        heads: H.
        kv_heads: G.
        head_dim: d.
        epsilon: Of the norms.
        scale: Of the attention logits.
    """

    layers: tuple[LayerWeights, ...]
    embedding: torch.Tensor
    norm: torch.Tensor
    head: Projection
    rotary: Any
    activation: Any
    heads: int
    kv_heads: int
    head_dim: int
    epsilon: float
    scale: float


def read_weights(model: Any) -> DecoderWeights:
    """Read a transformers model of one of ``FAMILIES``, or the language model in one of ``SEEING_FAMILIES``.

    The weights of q, k, v and of gate, up are laid side by side, and the model's own modules become views of
    them: the model stays usable and no weight is held twice. A model that was read before is not copied. Safe
    to use from several threads.

    Raises:
        ModelError: Another architecture, or one with layers that are not plain linear maps.
    """
    body = _body(model)
    config = body.config
    with _laying:
        layers = tuple(_layer(layer, config) for layer in body.layers)
        head = _join([model.lm_head])
    attention = body.layers[0].self_attn
    head_dim = int(attention.head_dim)
    return DecoderWeights(
        layers=layers,
        embedding=body.embed_tokens.weight.data,
        norm=body.norm.weight.data,
        head=head,
        # Some rope types change the module as they go (dynamic): a copy, so that nobody else's reads do that.
        rotary=deepcopy(body.rotary_emb),
        activation=body.layers[0].mlp.act_fn,
        heads=attention.q_proj.out_features // head_dim,
        kv_heads=attention.k_proj.out_features // head_dim,
        head_dim=head_dim,
        epsilon=float(config.rms_norm_eps),
        scale=float(attention.scaling),
    )


def unknown_family(what: str) -> ModelError:
    """Return the error for another architecture."""
    return ModelError(f"the engine cannot run {what}; it runs {', '.join((*FAMILIES, *SEEING_FAMILIES))}")


def _body(model: Any) -> Any:
    """Return the decoder stack of a model, below its head.

    Raises:
        ModelError: Not a family that the engine runs.
    """
    family = type(model).__name__
    if family in FAMILIES:
        return model.model
    if family not in SEEING_FAMILIES:
        raise unknown_family(f"a {family}")
    body = model.model.language_model
    inner = f"{type(body).__name__.removesuffix('Model')}ForCausalLM"
    if inner not in FAMILIES:
        raise ModelError(
            f"the engine cannot run the {type(body).__name__} in this {family}; it runs the language models "
            f"of {', '.join(FAMILIES)}"
        )
    return body


def _layer(layer: Any, config: Any) -> LayerWeights:
    attention, mlp = layer.self_attn, layer.mlp
    # Qwen decides per layer; Mistral has one window for all, Llama none.
    window = getattr(attention, "sliding_window", None)
    if window is None and config.model_type == "mistral":
        window = config.sliding_window
    return LayerWeights(
        qkv=_join([attention.q_proj, attention.k_proj, attention.v_proj]),
        out=_join([attention.o_proj]),
        gate_up=_join([mlp.gate_proj, mlp.up_proj]),
        down=_join([mlp.down_proj]),
        input_norm=layer.input_layernorm.weight.data,
        middle_norm=layer.post_attention_layernorm.weight.data,
        q_norm=_norm(attention, "q_norm"),
        k_norm=_norm(attention, "k_norm"),
        window=None if window is None else int(window),
    )


def _norm(attention: Any, name: str) -> torch.Tensor | None:
    module = getattr(attention, name, None)
    return None if module is None else module.weight.data


def _join(modules: Sequence[Any]) -> Projection:
    """Lay the weights of linear modules over the same input side by side; the modules become views."""
    import torch

    for module in modules:
        if type(module) is not torch.nn.Linear:
            raise ModelError(
                f"the engine runs plain linear layers, not {type(module).__name__}; load the model without "
                "quantisation and with adapters merged"
            )
    weight = _side_by_side([module.weight for module in modules])
    biases = [module.bias for module in modules]
    if all(bias is None for bias in biases):
        return Projection(weight, None)
    if any(bias is None for bias in biases):
        raise ModelError("the engine needs biases on all of q, k, v or on none of them")
    return Projection(weight, _side_by_side(biases))


def _side_by_side(parameters: Sequence[Any]) -> torch.Tensor:
    import torch

    first = parameters[0].data
    if len(parameters) == 1:
        return first.contiguous()
    sizes = [len(p) for p in parameters]
    if _adjacent(parameters):
        return first.as_strided((sum(sizes), *first.shape[1:]), first.stride())
    joined = torch.cat([p.data for p in parameters])
    for parameter, part in zip(parameters, joined.split(sizes), strict=True):
        parameter.data = part
    return joined


def _adjacent(parameters: Sequence[Any]) -> bool:
    """Tell whether the parameters already lie one behind the other in one piece of memory."""
    end = parameters[0].data_ptr()
    storage = parameters[0].untyped_storage().data_ptr()
    for p in parameters:
        if not p.is_contiguous() or p.data_ptr() != end or p.untyped_storage().data_ptr() != storage:
            return False
        end += p.numel() * p.element_size()
    return True
