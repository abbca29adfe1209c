"""What stays of a pruned decoder, and what that costs in integers; all parts of the backend meet here.

Additive biases that compensation leaves travel beside a ``Kept`` as a dict ``layers.{i}.o_bias`` or
``layers.{i}.down_bias`` -> float32 [hidden].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from tokenprune.errors import ModelError

if TYPE_CHECKING:
    import torch

Biases = Mapping[str, "torch.Tensor"]

DENSE = ("llama", "mistral", "qwen2", "qwen3")
# A model type of its own: a loader without this package refuses the folder; with the dense type it would fill
# what is missing with random numbers.
PREFIX = "tokenprune_"
SPARSE = ("mixtral", "qwen2_moe", "qwen3_moe")


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a dense decoder, read from a transformers config.

    Attributes:
        hidden: Size of the residual stream.
        heads: Query heads.
        kv_heads: Key heads; each serves ``heads // kv_heads`` query heads that follow one another.
        head_dim: Dimensions of a head.
        intermediate: FFN channels of a layer (of one expert in a layer of experts).
        vocabulary: Rows of the embedding.
        tied: The output head is the embedding.
        qkv_bias: Biases on q, k and v.
        o_bias: Bias on o.
        mlp_bias: Biases on gate, up and down.
        qk_norm: Norms of query and key heads.
        experts: Experts of each layer; None for a dense layer.
        experts_per_token: Experts a token visits; 0 without experts.
        shared: Channels of the expert that all tokens visit; 0 without one.
    """

    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: tuple[int, ...]
    vocabulary: int
    tied: bool
    qkv_bias: bool
    o_bias: bool
    mlp_bias: bool
    qk_norm: bool
    experts: tuple[int | None, ...]
    experts_per_token: int
    shared: int

    @property
    def layers(self) -> int:
        """Decoder layers."""
        return len(self.intermediate)

    @property
    def queries_per_kv(self) -> int:
        """Query heads of a KV group."""
        return self.heads // self.kv_heads

    @property
    def kv_group_params(self) -> int:
        """Parameters of one KV group: rows of q, k, v, their biases, and columns of o."""
        rows = (self.queries_per_kv + 2) * self.head_dim
        return rows * (self.hidden + self.qkv_bias) + self.queries_per_kv * self.head_dim * self.hidden

    @property
    def channel_params(self) -> int:
        """Parameters of one channel of a dense FFN: rows of gate and up, their biases, a column of down."""
        return 3 * self.hidden + 2 * self.mlp_bias

    def expert_params(self, layer: int) -> int:
        """Parameters of one expert of a layer, with its row of the router."""
        return 3 * self.hidden * self.intermediate[layer] + self.hidden

    @classmethod
    def of(cls, config: Any) -> Shape:
        """Read a dense transformers config (not one of a pruned checkpoint).

        Raises:
            ModelError: An architecture whose layers are not known here.
        """
        family = str(config.model_type)
        if family.startswith(PREFIX):
            raise ModelError(
                "this model was pruned already, its layers differ in size: prune the one it was made from"
            )
        if family not in (*DENSE, *SPARSE):
            raise ModelError(
                f"cannot prune the weights of a {family!r} model; known are {', '.join((*DENSE, *SPARSE))}"
            )
        layers = int(config.num_hidden_layers)
        heads = int(config.num_attention_heads)
        experts: tuple[int | None, ...] = (None,) * layers
        wide = int(config.intermediate_size)
        widths = (wide,) * layers
        if family == "mixtral":
            experts = (int(config.num_local_experts),) * layers
        elif family in SPARSE:
            alone, step = set(config.mlp_only_layers or ()), int(config.decoder_sparse_step)
            sparse = [
                i not in alone and config.num_experts > 0 and (i + 1) % step == 0 for i in range(layers)
            ]
            experts = tuple(int(config.num_experts) if s else None for s in sparse)
            widths = tuple(int(config.moe_intermediate_size) if s else wide for s in sparse)
        biased = bool(getattr(config, "attention_bias", False))
        of_family = family == "qwen2" or (family == "qwen2_moe" and bool(getattr(config, "qkv_bias", True)))
        return cls(
            hidden=int(config.hidden_size),
            heads=heads,
            kv_heads=int(getattr(config, "num_key_value_heads", None) or heads),
            head_dim=int(getattr(config, "head_dim", None) or config.hidden_size // heads),
            intermediate=widths,
            vocabulary=int(config.vocab_size),
            tied=bool(config.tie_word_embeddings),
            qkv_bias=biased or of_family,
            o_bias=biased,
            mlp_bias=bool(getattr(config, "mlp_bias", False)),
            qk_norm=family in ("qwen3", "qwen3_moe"),
            experts=experts,
            experts_per_token=int(config.num_experts_per_tok) if family in SPARSE else 0,
            shared=int(config.shared_expert_intermediate_size) if family == "qwen2_moe" else 0,
        )


@dataclass(frozen=True, slots=True)
class LayerKept:
    """What stays of one decoder layer.

    Attributes:
        attention: The attention sublayer stays.
        kv_heads: KV groups that stay, each with all its query heads, ascending.
        mlp: The FFN sublayer stays.
        channels: FFN channels that stay, ascending; of a layer of experts: of every expert.
        experts: Experts that stay, ascending; None for a dense layer.
    """

    attention: bool
    kv_heads: tuple[int, ...]
    mlp: bool
    channels: tuple[int, ...]
    experts: tuple[int, ...] | None = None

    @property
    def empty(self) -> bool:
        """Nothing stays: the layer can be left out."""
        return not (self.attention or self.mlp)


@dataclass(frozen=True, slots=True)
class Kept:
    """What stays of a decoder."""

    layers: tuple[LayerKept, ...]

    def plain(self) -> list[dict[str, Any]]:
        """Return it as lists and dicts, for a checkpoint."""
        return [asdict(layer) for layer in self.layers]

    @classmethod
    def of_plain(cls, layers: Sequence[Mapping[str, Any]]) -> Kept:
        """Read what `plain` gave."""
        return cls(tuple(LayerKept(**layer) for layer in layers))

    @classmethod
    def all_of(cls, config: Any) -> Kept:
        """Return the whole model; raises ModelError for an unknown architecture."""
        shape = Shape.of(config)
        return cls(
            tuple(
                LayerKept(
                    True,
                    tuple(range(shape.kv_heads)),
                    True,
                    tuple(range(wide)),
                    None if experts is None else tuple(range(experts)),
                )
                for wide, experts in zip(shape.intermediate, shape.experts, strict=True)
            )
        )

    def params(self, config: Any, biases: Biases | None = None) -> int:
        """Parameters of the model that stays; ``config`` is the dense model's; tied weights count once."""
        shape = Shape.of(config)
        outside = shape.vocabulary * shape.hidden * (1 if shape.tied else 2) + shape.hidden
        added = sum(int(bias.numel()) for bias in (biases or {}).values())
        return outside + added + sum(self.layer_params(config, i) for i in range(len(self.layers)))

    def layer_params(self, config: Any, layer: int) -> int:
        """Parameters of one layer: matrices, their biases, norms of the sublayers that stay."""
        shape, kept = Shape.of(config), self.layers[layer]
        total = 0
        if kept.attention:
            total += len(kept.kv_heads) * shape.kv_group_params + shape.hidden * (1 + shape.o_bias)
            total += 2 * shape.head_dim * shape.qk_norm
        if kept.mlp:
            total += shape.hidden
            if kept.experts is None:
                total += len(kept.channels) * shape.channel_params + shape.hidden * shape.mlp_bias
            else:
                total += len(kept.experts) * (3 * shape.hidden * len(kept.channels) + shape.hidden)
                total += 3 * shape.hidden * shape.shared + shape.hidden * (shape.shared > 0)
        return total

    def kv_bytes_per_token(self, config: Any, bytes_per_number: int = 2) -> int:
        """Bytes of KV cache one token takes over all layers."""
        shape = Shape.of(config)
        groups = sum(len(layer.kv_heads) for layer in self.layers if layer.attention)
        return 2 * groups * shape.head_dim * bytes_per_number

    def prefill_flops(self, config: Any, tokens: int) -> int:
        """Floating-point operations (2 a multiply-add) of reading ``tokens``; the head reads the last.

        Matrices and causal attention count; norms, activations and rotations do not. A sliding window is not
        taken into account.
        """
        shape = Shape.of(config)
        total = 2 * shape.hidden * shape.vocabulary
        for kept in self.layers:
            if kept.attention:
                wide = len(kept.kv_heads) * shape.head_dim
                queries = wide * shape.queries_per_kv
                total += 2 * tokens * shape.hidden * (2 * queries + 2 * wide)
                total += 2 * queries * tokens * (tokens + 1)
            if kept.mlp and kept.experts is None:
                total += 6 * tokens * shape.hidden * len(kept.channels)
            elif kept.mlp and kept.experts is not None:
                visited = min(shape.experts_per_token, len(kept.experts))
                total += 6 * tokens * shape.hidden * (visited * len(kept.channels) + shape.shared)
                total += 2 * tokens * shape.hidden * (len(kept.experts) + (shape.shared > 0))
        return total
