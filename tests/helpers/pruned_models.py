"""Tiny random models of all families, ways to prune them, and an independent idea of what should come out."""

import copy

import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from tokenprune.weights.kept import Kept, LayerKept

VOCABULARY, HIDDEN, WIDTH, LAYERS = 97, 128, 96, 4
SIZE = {
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "intermediate_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 512,
    "initializer_range": 0.15,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 48, "num_experts": 6, "norm_topk_prob": True}
FAMILIES = {
    "llama": (LlamaConfig, LlamaForCausalLM, {"head_dim": 32}),
    "mistral": (MistralConfig, MistralForCausalLM, {"head_dim": 32, "sliding_window": 12}),
    # half as many heads: vLLM takes the size of a Qwen2 head to be hidden / heads
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, {"num_attention_heads": 4, "num_key_value_heads": 2}),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, {"head_dim": 32}),
    "mixtral": (MixtralConfig, MixtralForCausalLM, {"num_local_experts": 6, "num_experts_per_tok": 2}),
    "qwen2_moe": (
        Qwen2MoeConfig,
        Qwen2MoeForCausalLM,
        EXPERTS | {"shared_expert_intermediate_size": 40, "mlp_only_layers": [1]},
    ),
    "qwen3_moe": (Qwen3MoeConfig, Qwen3MoeForCausalLM, EXPERTS | {"head_dim": 32}),
}


def tiny(family="llama", seed=0, **changes):
    """A float32 model whose biases and norms are not the trivial ones."""
    config, model_class, own = FAMILIES[family]
    torch.manual_seed(seed)
    model = model_class(config(**(SIZE | own | changes))).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias") or "norm" in name:
                parameter.add_(torch.randn(parameter.shape) * 0.3)
    return model


def biases(*names, seed=1, scale=0.2):
    generator = torch.Generator().manual_seed(seed)
    return {f"layers.{name}": torch.randn(HIDDEN, generator=generator) * scale for name in names}


def layer(groups=(0, 1, 2, 3), channels=range(WIDTH), experts=None):
    """What is kept of a layer; nothing of a sublayer means that it is dropped."""
    groups, channels = tuple(groups), tuple(channels)
    return LayerKept(bool(groups), groups, bool(channels), channels, experts)


def finer(last=3):
    """Dropped sublayers, the first attention among them, and a dropped layer."""
    return Kept((layer((), range(50)), layer((0, last), range(3, WIDTH)), layer((), ()), layer((last,), ())))


def flap(last=3):
    """Per-layer widths and KV groups."""
    every = range(last + 1)
    return Kept(
        (
            layer(list(every)[1:], range(0, WIDTH, 2)),
            layer(every, range(5, WIDTH)),
            layer((last,), range(7)),
            layer((0, last), range(WIDTH)),
        )
    )


def narrow(last=3):
    """The same channels of every FFN."""
    return Kept((layer(range(last + 1), range(0, WIDTH, 2)),) * LAYERS)


def shallow(last=3):
    """Whole layers dropped."""
    whole, gone = layer(range(last + 1)), layer((), ())
    return Kept((whole, gone, whole, gone))


def few_heads(last=3):
    """One KV group left everywhere."""
    return Kept((layer((last,), range(WIDTH)),) * LAYERS)


FLAP_BIASES = ("0.o_bias", "0.down_bias", "2.o_bias", "3.down_bias")
# of sublayers that are dropped as well: of the first attention, of a whole layer, of an FFN
FINER_BIASES = ("0.o_bias", "1.down_bias", "2.o_bias", "3.down_bias")
WAYS = {
    "finer": (finer, ()),
    "finer-biased": (finer, FINER_BIASES),
    "flap": (flap, FLAP_BIASES),
    "flap-plain": (flap, ()),
    "narrow": (narrow, ()),
    "narrow-biased": (narrow, ("1.down_bias", "2.o_bias")),
    "shallow": (shallow, ()),
    "few-heads": (few_heads, ()),
}


def way(model, name):
    """The named pruning for a model: what is kept, and biases."""
    make, names = WAYS[name]
    return make(model.config.num_key_value_heads - 1), biases(*names)


def zeroed(model, kept, added):
    """A copy of a dense model with zeros where something is dropped: no hooks, no slices, no new modules."""
    model = copy.deepcopy(model)
    config = model.config
    group = (
        config.num_attention_heads // config.num_key_value_heads * model.model.layers[0].self_attn.head_dim
    )
    with torch.no_grad():
        for index, (block, stays) in enumerate(zip(model.model.layers, kept.layers, strict=True)):
            for kind, linear, there in (
                ("o_bias", block.self_attn.o_proj, stays.attention),
                ("down_bias", block.mlp.down_proj, stays.mlp),
            ):
                for column in range(linear.in_features):
                    unit = column // group if kind == "o_bias" else column
                    if unit not in (stays.kv_heads if kind == "o_bias" else stays.channels):
                        linear.weight[:, column] = 0
                own = linear.bias if linear.bias is not None and there else torch.zeros(HIDDEN)
                linear.bias = torch.nn.Parameter(own + added.get(f"layers.{index}.{kind}", 0))
    return model


def greedy(model, prompt, tokens):
    """Continue one prompt [tokens] greedily, with the whole forward pass for every token."""
    ids = list(prompt)
    for _ in range(tokens):
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
    return ids[len(prompt) :]


def some_ids(*shape, seed=3):
    return torch.randint(3, VOCABULARY, shape, generator=torch.Generator().manual_seed(seed))
