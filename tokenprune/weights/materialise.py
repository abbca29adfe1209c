"""Cut the slices that a `Kept` leaves out of a model: a smaller model, not a masked one.

Where all layers come out alike the result is the family's plain class, which loads everywhere; else it is the
family's class with per-layer sizes of `tokenprune.weights.hf_model`. Experts can only come out alike.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tokenprune.errors import MissingExtraError, ModelError
from tokenprune.weights.kept import DENSE, Biases, Kept, LayerKept, Shape
from tokenprune.weights.shapes import ARCHITECTURES, KEY, LayerShape, shapes_of, to_config

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

_BIAS = re.compile(r"layers\.(\d+)\.(?:o|down)_bias")
_STEP = 8  # numbers of 16 bits in 16 bytes, what a stride of a grouped matrix product must be a multiple of
_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)")


def materialise(model: PreTrainedModel, kept: Kept, biases: Biases | None = None) -> PreTrainedModel:
    """Return a model without the slices that ``kept`` leaves out; ``model`` stays as it is.

    Its logits are those of ``model`` with the same slices set to zero and the biases added, up to rounding.
    Nothing is shared with ``model``, so that one can be trained and the other teach.

    Args:
        model: A dense model of a known family; its weights may be compensated already.
        kept: What stays of every layer.
        biases: What to add to the output of ``o_proj`` and ``down_proj``: ``layers.{i}.o_bias`` and
            ``layers.{i}.down_bias`` [hidden]. They outlive a sublayer that is dropped, as a constant.

    Raises:
        ModelError: ``kept`` or ``biases`` do not fit the model, everything is dropped, or experts would have
            to differ between layers.
        MissingExtraError: torch or transformers is not installed.
    """
    try:
        import torch
    except ImportError as error:
        raise MissingExtraError("pruning weights", "models", error.name or "torch") from error

    biases = biases or {}
    check_fit(kept, biases, model.config)
    shapes = shapes_of(kept, biases, model.config)
    if all(shape.empty for shape in shapes):
        raise ModelError("nothing is left of the model: keep at least one sublayer")
    config, plain = config_of(model.config, kept, shapes)
    with torch.device("meta"):
        small = _class_of(model, plain)._from_config(config)
    with torch.no_grad():
        state = {name: tensor.detach().clone() for name, tensor in _outside(model).items()}
        dense = model.state_dict()
        new = 0
        for index, shape in enumerate(shapes):
            if not shape.empty:
                tensors = _layer(dense, model.config, index, kept.layers[index], biases)
                state |= {f"model.layers.{new}.{name}": tensor for name, tensor in tensors.items()}
                new += 1
        if plain:  # a plain class has all biases of a kind or none
            for name, expected in small.state_dict().items():
                if name.endswith(".bias") and name not in state:
                    state[name] = torch.zeros(expected.shape, dtype=model.dtype, device=model.device)
    small.load_state_dict(state, strict=True, assign=True)
    small.tie_weights()
    # Buffers that no checkpoint holds; they depend on nothing that was pruned.
    small.model.rotary_emb = copy.deepcopy(model.model.rotary_emb)
    small.generation_config = copy.deepcopy(model.generation_config)
    return small.train(model.training)


def check_fit(kept: Kept, biases: Biases, config: Any) -> None:
    """Raise ModelError unless ``kept`` and ``biases`` name slices that the dense model has."""
    shape = Shape.of(config)
    if len(kept.layers) != shape.layers:
        raise ModelError(f"what is kept is given for {len(kept.layers)} layers, the model has {shape.layers}")
    for index, layer in enumerate(kept.layers):
        parts = (
            ("kv_heads", layer.attention, layer.kv_heads, shape.kv_heads),
            ("channels", layer.mlp, layer.channels, shape.intermediate[index]),
            (
                "experts",
                layer.mlp and layer.experts is not None,
                layer.experts or (),
                shape.experts[index] or 0,
            ),
        )
        if (layer.experts is None) != (shape.experts[index] is None):
            raise ModelError(f"layer {index}: experts must be given for a layer of experts, and for no other")
        for name, there, indices, limit in parts:
            if there and not indices:
                raise ModelError(
                    f"layer {index} keeps the sublayer but none of its {name}: drop the sublayer"
                )
            if list(indices) != sorted(set(indices)) or (
                indices and not 0 <= indices[0] <= indices[-1] < limit
            ):
                raise ModelError(f"layer {index}: {name} must be ascending, in 0..{limit - 1}, each once")
    for name, bias in biases.items():
        match = _BIAS.fullmatch(name)
        if match is None or int(match[1]) >= shape.layers:
            raise ModelError(f"{name!r} names no bias of this model: layers.I.o_bias or layers.I.down_bias")
        if tuple(bias.shape) != (shape.hidden,):
            raise ModelError(f"bias {name!r} has shape {tuple(bias.shape)}, must be ({shape.hidden},)")


def config_of(dense: Any, kept: Kept, shapes: Sequence[LayerShape]) -> tuple[Any, bool]:
    """Return the config of the model that is left, and whether it is one of the plain class.

    Raises:
        ModelError: Layers of experts come out unlike, which no class here can hold.
    """
    left = [index for index, shape in enumerate(shapes) if not shape.empty]
    config = copy.deepcopy(dense)
    config.num_hidden_layers = len(left)
    _renumber(config, dense, left)
    if dense.model_type not in DENSE:
        _experts(config, dense, kept, [shapes[i] for i in left], left)
        return config, True
    remaining = [shapes[index] for index in left]
    if _plain(config, Shape.of(dense), remaining):
        return config, True
    from tokenprune.weights.hf_model import CONFIGS

    settings = {
        name: value
        for name, value in config.to_dict().items()
        if name not in ("model_type", "architectures", "transformers_version")
    }
    settings["head_dim"] = Shape.of(dense).head_dim
    settings[KEY] = to_config(remaining)
    pruned = CONFIGS[dense.model_type](**settings)
    pruned.architectures = [ARCHITECTURES[dense.model_type]]
    pruned._attn_implementation = dense._attn_implementation
    return pruned, False


def _plain(config: Any, dense: Shape, shapes: Sequence[LayerShape]) -> bool:
    """Turn ``config`` into that of the plain class if it can hold these layers; say whether it could."""
    groups, widths = {s.kv_heads for s in shapes}, {s.intermediate_size for s in shapes}
    if len(groups) > 1 or len(widths) > 1 or 0 in groups | widths:
        return False
    biased = any(shape.o_bias for shape in shapes), any(shape.down_bias for shape in shapes)
    if biased != (dense.o_bias, dense.mlp_bias):
        if config.model_type != "llama":  # only Llama has switches for both
            return False
        config.attention_bias, config.mlp_bias = biased
    (kv_heads,), (width,) = groups, widths
    heads = kv_heads * dense.queries_per_kv
    if kv_heads != dense.kv_heads:
        # In vLLM Qwen2 works out the size of a head from their number; Llama wants a number of heads that
        # divides the hidden size, though it does not use the quotient.
        if config.model_type == "qwen2" or dense.hidden % heads:
            return False
        config.head_dim = dense.head_dim
    config.num_attention_heads, config.num_key_value_heads = heads, kv_heads
    config.intermediate_size = width
    return True


def _renumber(config: Any, dense: Any, left: Sequence[int]) -> None:
    """Settings that list layers or count them up to one follow the layers that are left."""
    types = getattr(dense, "layer_types", None)
    if types is not None:
        config.layer_types = [types[index] for index in left]
    window = getattr(dense, "max_window_layers", None)
    if window is not None and len(left) < dense.num_hidden_layers:
        config.max_window_layers = sum(index < window for index in left)
    if hasattr(dense, "decoder_sparse_step"):
        experts = Shape.of(dense).experts
        config.decoder_sparse_step = 1
        config.mlp_only_layers = [new for new, index in enumerate(left) if experts[index] is None]


def _experts(config: Any, dense: Any, kept: Kept, shapes: Sequence[LayerShape], left: Sequence[int]) -> None:
    """Write the sizes of layers of experts; raise ModelError where they differ."""
    shape = Shape.of(dense)
    sparse = [kept.layers[index] for index in left if shape.experts[index] is not None]
    alone = [kept.layers[index] for index in left if shape.experts[index] is None]
    counts = {len(layer.experts or ()) for layer in sparse}
    widths, wide = {len(layer.channels) for layer in sparse}, {len(layer.channels) for layer in alone}
    groups = {layer.kv_heads for layer in shapes}
    alike = all(len(sizes) <= 1 for sizes in (counts, widths, wide, groups))
    if not alike or any(not (s.kv_heads and s.intermediate_size) for s in shapes):
        raise ModelError(
            f"layers of a {dense.model_type!r} model must keep equally many KV groups, channels and experts, "
            "or be dropped whole: use a uniform allocation"
        )
    if any(width % _STEP for width in widths):
        raise ModelError(
            f"experts must keep a multiple of {_STEP} channels, the grouped kernels of transformers and vLLM "
            f"take no others; {sorted(widths)[0]} is none: round the allocation"
        )
    if any((s.o_bias, s.down_bias) != (shape.o_bias, shape.mlp_bias) for s in shapes):
        raise ModelError(f"a {dense.model_type!r} model has no place for biases: use no compensation by bias")
    (kv_heads,) = groups
    config.head_dim = shape.head_dim
    config.num_key_value_heads, config.num_attention_heads = kv_heads, kv_heads * shape.queries_per_kv
    mixtral = dense.model_type == "mixtral"
    for count in counts:
        setattr(config, "num_local_experts" if mixtral else "num_experts", count)
        config.num_experts_per_tok = min(dense.num_experts_per_tok, count)
    for width in widths:
        setattr(config, "intermediate_size" if mixtral else "moe_intermediate_size", width)
    for width in wide:
        config.intermediate_size = width


def _class_of(model: PreTrainedModel, plain: bool) -> Any:
    if plain:
        return type(model)
    from tokenprune.weights.hf_model import MODELS

    return MODELS[model.config.model_type]


def _outside(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Tensors that belong to no layer."""
    return {name: t for name, t in model.state_dict().items() if _LAYER.fullmatch(name) is None}


def _layer(
    dense: dict[str, torch.Tensor], config: Any, index: int, kept: LayerKept, biases: Biases
) -> dict[str, torch.Tensor]:
    """Cut one layer; names are those inside the layer."""
    import torch

    shape, prefix = Shape.of(config), f"model.layers.{index}."
    old = {name.removeprefix(prefix): t for name, t in dense.items() if name.startswith(prefix)}
    groups = torch.tensor(kept.kv_heads if kept.attention else (), dtype=torch.long)
    channels = torch.tensor(kept.channels if kept.mlp else (), dtype=torch.long)
    within = torch.arange(shape.head_dim)
    keys = (groups[:, None] * shape.head_dim + within).flatten()
    each = torch.arange(shape.queries_per_kv * shape.head_dim)
    queries = (groups[:, None] * len(each) + each).flatten()
    rows = {"q_proj": queries, "k_proj": keys, "v_proj": keys, "gate_proj": channels, "up_proj": channels}
    columns = {"o_proj": queries, "down_proj": channels}

    new: dict[str, torch.Tensor] = {}
    for name, tensor in old.items():
        part, _, module = name.rpartition(".")[0].partition(".")
        if not (kept.attention if part in ("self_attn", "input_layernorm") else kept.mlp):
            continue
        if kept.experts is not None and part == "mlp":
            new[name] = _of_experts(name, tensor, kept, channels)
        elif module in rows:
            new[name] = tensor.index_select(0, rows[module].to(tensor.device))
        elif module in columns and name.endswith(".weight"):
            new[name] = tensor.index_select(1, columns[module].to(tensor.device))
        else:
            new[name] = tensor.detach().clone()
    for kind, name in (("o_bias", "self_attn.o_proj.bias"), ("down_bias", "mlp.down_proj.bias")):
        added = biases.get(f"layers.{index}.{kind}")
        if added is not None:
            like = next(iter(old.values()))
            before = new.get(name, torch.zeros_like(added))
            new[name] = (before.float() + added.to(before.device).float()).to(like.device, like.dtype)
    return new


def _of_experts(name: str, tensor: torch.Tensor, kept: LayerKept, channels: torch.Tensor) -> torch.Tensor:
    """Cut a tensor of a layer of experts: [experts, 2 channels, hidden] or [experts, hidden, channels]."""
    import torch

    experts = torch.tensor(kept.experts, device=tensor.device)
    channels = channels.to(tensor.device)
    if name == "mlp.gate.weight":
        return tensor.index_select(0, experts)
    if name == "mlp.experts.gate_up_proj":
        both = torch.cat((channels, channels + tensor.shape[1] // 2))
        return tensor.index_select(0, experts).index_select(1, both)
    if name == "mlp.experts.down_proj":
        return tensor.index_select(0, experts).index_select(2, channels)
    return tensor.detach().clone()  # of the expert that all tokens visit
