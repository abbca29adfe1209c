"""The dense model with slices set to zero: what a pruned model must agree with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from tokenprune.weights.kept import Biases, Kept, LayerKept, Shape
from tokenprune.weights.materialise import check_fit

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


@contextmanager
def masked(model: PreTrainedModel, kept: Kept, biases: Biases | None = None) -> Iterator[PreTrainedModel]:
    """Make the dense ``model`` compute as if it were pruned, until the block ends.

    Activations that enter ``o_proj`` and ``down_proj`` are zeroed where they come from a dropped KV group or
    channel, the output of a dropped sublayer is zero, a dropped expert gets no tokens, and the biases are
    added. Weights are not touched.

    Args:
        model: The model that ``kept`` was made for.
        kept: What stays of every layer.
        biases: As for `tokenprune.weights.materialise.materialise`.

    Raises:
        ModelError: ``kept`` or ``biases`` do not fit the model.
    """
    biases = biases or {}
    check_fit(kept, biases, model.config)
    with ExitStack() as stack:
        for index, (layer, stays) in enumerate(zip(model.model.layers, kept.layers, strict=True)):
            for hook in _hooks(layer, stays, index, biases, model.config):
                stack.callback(hook.remove)
        yield model


def _hooks(layer: Any, kept: LayerKept, index: int, biases: Biases, config: Any) -> Iterator[Any]:
    import torch

    shape, device = Shape.of(config), next(layer.parameters()).device
    group = shape.queries_per_kv * shape.head_dim
    heads = torch.zeros(shape.kv_heads, dtype=torch.bool, device=device)
    heads[list(kept.kv_heads)] = True
    yield layer.self_attn.o_proj.register_forward_pre_hook(_zero_inputs(heads.repeat_interleave(group)))
    if kept.experts is None:
        channels = torch.zeros(shape.intermediate[index], dtype=torch.bool, device=device)
        channels[list(kept.channels)] = True
        yield layer.mlp.down_proj.register_forward_pre_hook(_zero_inputs(channels))
    else:
        yield layer.mlp.gate.register_forward_hook(_route(kept.experts, config))
        yield layer.mlp.experts.register_forward_hook(_narrow(kept, shape.intermediate[index]))
    added = biases.get(f"layers.{index}.o_bias"), biases.get(f"layers.{index}.down_bias")
    yield layer.self_attn.register_forward_hook(_change_output(kept.attention, added[0]))
    yield layer.mlp.register_forward_hook(_change_output(kept.mlp, added[1]))


def _zero_inputs(stays: torch.Tensor) -> Any:
    return lambda module, inputs: (inputs[0] * stays,)


def _change_output(stays: bool, added: torch.Tensor | None) -> Any:
    """Zero what a sublayer puts out unless it ``stays``, and add a bias [hidden]."""
    import torch

    def change(module: Any, inputs: Any, output: Any) -> Any:
        first = output[0] if isinstance(output, tuple) else output
        new = first if stays else torch.zeros_like(first)
        if added is not None:
            new = new + added.to(new)
        return (new, *output[1:]) if isinstance(output, tuple) else new

    return change


def _route(experts: tuple[int, ...], config: Any) -> Any:
    """Route a token to the best of the experts that stay; their probabilities are those among them alone."""
    import torch

    top = min(config.num_experts_per_tok, len(experts))
    normed = config.model_type == "mixtral" or bool(config.norm_topk_prob)

    def route(module: Any, inputs: Any, output: Any) -> Any:
        logits = output[0]
        gone = torch.ones(logits.shape[-1], dtype=torch.bool, device=logits.device)
        gone[list(experts)] = False
        chances = torch.softmax(logits.float().masked_fill(gone, float("-inf")), dim=-1)
        weights, chosen = torch.topk(chances, top, dim=-1)
        if normed:
            weights = weights / weights.sum(dim=-1, keepdim=True)
        return logits, weights.to(output[1].dtype), chosen

    return route


def _narrow(kept: LayerKept, width: int) -> Any:
    """Run the experts again, one by one, without the channels that are dropped."""
    import torch

    def narrow(module: Any, inputs: Any, output: Any) -> Any:
        if len(kept.channels) == width:
            return output
        hidden, chosen, weights = inputs
        stays = torch.zeros(width, dtype=hidden.dtype, device=hidden.device)
        stays[list(kept.channels)] = 1
        new = torch.zeros_like(hidden)
        for expert in kept.experts or ():
            gate, up = (hidden @ module.gate_up_proj[expert].T).chunk(2, dim=-1)
            share = (weights * (chosen == expert)).sum(dim=-1, keepdim=True).to(hidden.dtype)
            new += share * ((module.act_fn(gate) * up * stays) @ module.down_proj[expert].T)
        return new

    return narrow
