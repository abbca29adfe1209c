"""What a prompt costs on paper: parameters, prefill FLOPs, KV bytes, and seconds on named hardware.

Decoder-only transformers of the Llama family (Llama, SmolLM2, Mistral, Qwen2, Qwen3, the mixtures Mixtral,
Qwen2-MoE and Qwen3-MoE): grouped-query attention, gated feed-forward, RMS norms, tied or untied embeddings. A
multiply and an add are two operations. Counted: all matrix products of the layers for every prompt token, the
attention products over the causal half (a token attends to itself and to what stands before it), the output
head once, since serving engines compute it for the last token only. Not counted: norms, rotary embeddings,
softmax, sampling (below 1 % from a few hundred tokens on).

The roofline (Williams, Waterman and Patterson 2009): a prefill takes the longer of its arithmetic and of one
reading of the weights and writing of the KV cache.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenprune.errors import ConfigError, ModelError, UnknownNameError
from tokenprune.models.catalog import read_json

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "float8_e4m3fn": 1, "int8": 1}
_SEEING = ("llava", "llava_onevision")
_FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "mixtral", "qwen2_moe", "qwen3_moe")
UTILISATION = 0.5  # share of the peak that a prefill reaches; 40 to 60 % is what served models see


@dataclass(frozen=True)
class ModelShape:
    """The sizes of a model that its cost depends on.

    Attributes:
        layers: transformer blocks.
        hidden: width of the residual stream.
        heads: query heads.
        kv_heads: key and value heads.
        head_dim: width of a head.
        intermediate: width of the feed-forward, of one expert in a mixture.
        vocab: rows of the embedding.
        tied: whether the output head is the embedding.
        experts: of a layer; 0: no mixture.
        active_experts: that a token passes.
        shared_intermediate: width of a shared expert, which every token passes.
        qkv_bias: numbers added to queries, keys and values (Qwen2).
        qk_norm: norms of queries and keys (Qwen3).
        weight_bytes: of one parameter.
        kv_bytes: of one number of the KV cache.
    """

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    tied: bool = False
    experts: int = 0
    active_experts: int = 0
    shared_intermediate: int = 0
    qkv_bias: bool = False
    qk_norm: bool = False
    weight_bytes: float = 2
    kv_bytes: float = 2

    @property
    def _attention(self) -> int:
        """Weights of a layer's four projections."""
        return 2 * self.hidden * self.head_dim * (self.heads + self.kv_heads)

    def _feed_forward(self, experts: int) -> int:
        """Weights of a layer's feed-forward, with so many of its experts, the router and a shared expert."""
        weights = 3 * self.hidden * self.intermediate * (experts if self.experts else 1)
        weights += self.hidden * self.experts
        if self.shared_intermediate:
            weights += 3 * self.hidden * self.shared_intermediate + self.hidden  # and its gate
        return weights

    @property
    def parameters(self) -> int:
        """All parameters, as a checkpoint holds them."""
        extra = 2 * self.hidden  # norms
        extra += self.head_dim * (self.heads + 2 * self.kv_heads) if self.qkv_bias else 0
        extra += 2 * self.head_dim if self.qk_norm else 0
        layer = self._attention + self._feed_forward(self.experts) + extra
        return self.layers * layer + self.vocab * self.hidden * (1 if self.tied else 2) + self.hidden

    @property
    def linear_flops(self) -> int:
        """Operations of the layers' matrix products for one token."""
        return 2 * self.layers * (self._attention + self._feed_forward(self.active_experts))

    @property
    def head_flops(self) -> int:
        """Operations of the output head for one token."""
        return 2 * self.hidden * self.vocab

    @property
    def kv_bytes_per_token(self) -> float:
        """Bytes of keys and values of one token in all layers."""
        return 2 * self.layers * self.kv_heads * self.head_dim * self.kv_bytes

    @property
    def total_weight_bytes(self) -> float:
        """Bytes of all weights."""
        return self.parameters * self.weight_bytes

    def attention_flops(self, tokens: int, cached: int = 0, *, causal: bool = True) -> int:
        """Operations of scores and weighted sums: 4 x heads x head_dim for each pair of tokens and layer.

        Args:
            tokens: of the prompt.
            cached: leading tokens whose keys and values are there already.
            causal: count pairs that a causal mask leaves; else the full square, as some kernels compute it.
        """
        new = tokens - cached
        pairs = new * cached + new * (new + 1) // 2 if causal else new * tokens
        return 4 * self.layers * self.heads * self.head_dim * pairs

    def prefill_flops(self, tokens: int, cached: int = 0, *, causal: bool = True) -> int:
        """Operations until the first token: the linear part, attention, and the head once."""
        if tokens <= cached:  # an engine recomputes the last token at least
            cached = max(0, tokens - 1)
        new = tokens - cached
        if new <= 0:
            return 0
        return new * self.linear_flops + self.attention_flops(tokens, cached, causal=causal) + self.head_flops

    def layered_prefill_flops(self, tokens: Sequence[int]) -> int:
        """Operations until the first token when layers see different numbers of tokens.

        Args:
            tokens: that go through each layer, from the first; where all are the same this is
                `prefill_flops`. `tokenprune.vision.engine.rows_per_layer` counts them.

        Raises:
            ConfigError: not one number for each layer.
        """
        if len(tokens) != self.layers:
            raise ConfigError(f"{len(tokens)} numbers of tokens for a model of {self.layers} layers")
        linear, attention = sum(tokens) * self.linear_flops, sum(self.attention_flops(n) for n in tokens)
        return (linear + attention) // self.layers + self.head_flops


@dataclass(frozen=True)
class Hardware:
    """A device with dense 16-bit matrix units.

    Attributes:
        name: what it is asked for by.
        flops: peak operations per second, dense bfloat16, or float16 with float32 sums.
        bandwidth: peak bytes per second of its memory.
        source: where the figures are published.
        utilisation: share of the peak that prefill reaches.
    """

    name: str
    flops: float
    bandwidth: float
    source: str
    utilisation: float = UTILISATION


# Vendors' figures, dense (what a data sheet gives with sparsity is twice as much); read in second-hand copies
# of these data sheets, which agree, not in the data sheets themselves.
HARDWARE: dict[str, Hardware] = {
    h.name: h
    for h in (
        Hardware("a100", 312e12, 2.039e12, "NVIDIA A100 data sheet, SXM4 80 GB: BF16 dense, HBM2e"),
        Hardware(
            "h100",
            989.4e12,
            3.35e12,
            "NVIDIA H100 data sheet, SXM5: BF16 dense (1,979 with sparsity), HBM3",
        ),
        Hardware(
            "l4", 121e12, 300e9, "NVIDIA L4 data sheet: BF16 dense (half of the 242 with sparsity), GDDR6"
        ),
        Hardware("rtx4090", 165.2e12, 1.008e12, "NVIDIA Ada whitepaper: FP16 with FP32 sums, dense; GDDR6X"),
        Hardware(
            "cpu-2core",
            400e9,
            20e9,
            "measured on 2 cores of an AMD EPYC (Zen 3): bfloat16 product of 2048 x 576 x 1536; bandwidth "
            "is an estimate. vLLM 0.32 reaches 0.32 of it with SmolLM2-135M, 256 to 4,096 tokens within 11 %",
            0.32,
        ),
    )
}


def hardware(name: str, utilisation: float | None = None) -> Hardware:
    """Return a named device, at another utilisation if one is given.

    Raises:
        UnknownNameError: no such device; the message lists those there are.
        ConfigError: the utilisation is not in (0, 1].
    """
    if name not in HARDWARE:
        raise UnknownNameError("hardware", name, list(HARDWARE))
    known = HARDWARE[name]
    if utilisation is None:
        return known
    if not 0 < utilisation <= 1:
        raise ConfigError(f"the utilisation must be above 0 and at most 1, not {utilisation}")
    return Hardware(known.name, known.flops, known.bandwidth, known.source, utilisation)


def prefill_seconds(shape: ModelShape, device: Hardware, tokens: int, cached: int = 0) -> float:
    """Predict the seconds of one prompt's prefill, alone on the device.

    Args:
        shape: of the model.
        device: peak figures and utilisation; the bandwidth is used at the same share.
        tokens: of the prompt.
        cached: leading tokens that a prefix cache holds.
    """
    if tokens <= 0:
        return 0.0
    compute = shape.prefill_flops(tokens, cached) / device.flops
    moved = shape.total_weight_bytes + tokens * shape.kv_bytes_per_token
    return max(compute, moved / device.bandwidth) / device.utilisation


def read_shape(path: Path | str) -> ModelShape:
    """Read the sizes from a Hugging Face ``config.json``, or from the folder that holds it.

    Raises:
        ConfigError: it cannot be read, is of another family, or lacks a size.
    """
    path = Path(path).expanduser()
    file = path / "config.json" if path.is_dir() else path
    try:
        return shape_of(read_json(file, f"the model in {str(file.parent)!r}"))
    except ModelError as error:
        raise ConfigError(str(error)) from None
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{file} lacks a size or holds a wrong one: {error}") from None


def shape_of(config: Mapping[str, Any]) -> ModelShape:
    """Return the sizes of a parsed config; of a LLaVA-type model, those of its language model.

    Raises:
        ConfigError: it is of a family whose cost is not known here.
        KeyError: a size is missing.
    """
    family = config.get("model_type")
    if family in _SEEING:
        return shape_of(
            {"tie_word_embeddings": config.get("tie_word_embeddings", False), **config["text_config"]}
        )
    if family not in _FAMILIES:
        raise ConfigError(f"model_type {family!r} is not known here; known: {', '.join(_FAMILIES)}")
    if config.get("attention_bias") or config.get("mlp_bias"):
        raise ConfigError("attention_bias and mlp_bias are not counted here; leave them out for an estimate")
    if config.get("mlp_only_layers") or (config.get("decoder_sparse_step") or 1) != 1:
        raise ConfigError(
            "layers without experts beside those with experts (mlp_only_layers, decoder_sparse_step) are "
            "not counted here"
        )
    hidden, heads = int(config["hidden_size"]), int(config["num_attention_heads"])
    experts = int(config.get("num_local_experts") or config.get("num_experts") or 0)
    mixture = experts and family != "mixtral"
    size = _BYTES.get(str(config.get("dtype") or config.get("torch_dtype") or "bfloat16"), 2)
    return ModelShape(
        layers=int(config["num_hidden_layers"]),
        hidden=hidden,
        heads=heads,
        kv_heads=int(config.get("num_key_value_heads") or heads),
        head_dim=int(config.get("head_dim") or hidden // heads),
        intermediate=int(config["moe_intermediate_size"] if mixture else config["intermediate_size"]),
        vocab=int(config["vocab_size"]),
        tied=bool(config.get("tie_word_embeddings", False)),
        experts=experts,
        active_experts=int(config["num_experts_per_tok"]) if experts else 0,
        shared_intermediate=int(config.get("shared_expert_intermediate_size") or 0),
        qkv_bias=str(family).startswith("qwen2"),
        qk_norm=str(family).startswith("qwen3"),
        weight_bytes=size,
        kv_bytes=size,
    )
