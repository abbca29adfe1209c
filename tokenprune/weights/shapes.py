"""The sizes of every layer of a pruned checkpoint: the ``prune_layers`` list of its config.json.

One entry a layer, read alike by the transformers classes and the vLLM plugin. The other keys of the config
stay those of the dense model: ``num_attention_heads / num_key_value_heads`` query heads go with each KV group
that is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from tokenprune.errors import ModelError
from tokenprune.weights.kept import DENSE, PREFIX, Biases, Kept, Shape

KEY = "prune_layers"
MODEL_TYPES = {family: PREFIX + family for family in DENSE}
ARCHITECTURES = {
    "llama": "TokenPruneLlamaForCausalLM",
    "mistral": "TokenPruneMistralForCausalLM",
    "qwen2": "TokenPruneQwen2ForCausalLM",
    "qwen3": "TokenPruneQwen3ForCausalLM",
}


@dataclass(frozen=True, slots=True)
class LayerShape:
    """Sizes of one layer.

    Attributes:
        kv_heads: KV groups; 0 when the attention is dropped, its norm included.
        intermediate_size: FFN channels; 0 when the FFN is dropped, its norm included.
        o_bias: ``o_proj`` has a bias. Of a dropped attention it is all that is left, a constant.
        down_bias: ``down_proj`` has a bias; likewise.
    """

    kv_heads: int
    intermediate_size: int
    o_bias: bool = False
    down_bias: bool = False

    @property
    def empty(self) -> bool:
        """Nothing is left, not even a constant."""
        return not (self.kv_heads or self.intermediate_size or self.o_bias or self.down_bias)


def to_config(shapes: Sequence[LayerShape]) -> list[dict[str, Any]]:
    """Write shapes as the value of ``prune_layers``."""
    return [asdict(shape) for shape in shapes]


def from_config(config: Any) -> tuple[LayerShape, ...]:
    """Read ``prune_layers`` of a transformers config; without it every layer is as the dense model's.

    Raises:
        ModelError: The list is malformed, or does not fit the other sizes.
    """
    layers, heads = int(config.num_hidden_layers), int(config.num_attention_heads)
    groups, width = int(config.num_key_value_heads), int(config.intermediate_size)
    entries = getattr(config, KEY, None)
    if entries is None:
        biased, wide = (
            bool(getattr(config, "attention_bias", False)),
            bool(getattr(config, "mlp_bias", False)),
        )
        return (LayerShape(groups, width, biased, wide),) * layers
    if not isinstance(entries, list) or len(entries) != layers:
        found = len(entries) if isinstance(entries, list) else repr(entries)
        raise ModelError(
            f"config.json: {KEY} must list {layers} layers (num_hidden_layers), found {found}; the file was "
            "changed after the export, export the model again"
        )
    if heads % groups:
        raise ModelError(f"config.json: {heads} query heads cannot be shared out among {groups} KV heads")
    return tuple(_entry(index, entry, groups, width) for index, entry in enumerate(entries))


def _entry(index: int, entry: Any, groups: int, width: int) -> LayerShape:
    known = {field.name for field in fields(LayerShape)}
    if not isinstance(entry, dict) or not {"kv_heads", "intermediate_size"} <= set(entry) <= known:
        raise ModelError(f"config.json: {KEY}[{index}] must be an object with {', '.join(sorted(known))}")
    for name, limit in (("kv_heads", groups), ("intermediate_size", width)):
        value = entry[name]
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= limit:
            raise ModelError(f"config.json: {KEY}[{index}].{name} is {value!r}, must be in 0..{limit}")
    for name in ("o_bias", "down_bias"):
        if not isinstance(entry.get(name, False), bool):
            raise ModelError(f"config.json: {KEY}[{index}].{name} is {entry[name]!r}, must be true or false")
    return LayerShape(**entry)


def shapes_of(kept: Kept, biases: Biases, config: Any) -> tuple[LayerShape, ...]:
    """Return the shape each layer of the dense ``config`` is left with, empty layers included."""
    dense = Shape.of(config)
    return tuple(
        LayerShape(
            len(layer.kv_heads) if layer.attention else 0,
            len(layer.channels) if layer.mlp else 0,
            (layer.attention and dense.o_bias) or f"layers.{index}.o_bias" in biases,
            (layer.mlp and dense.mlp_bias) or f"layers.{index}.down_bias" in biases,
        )
        for index, layer in enumerate(kept.layers)
    )
