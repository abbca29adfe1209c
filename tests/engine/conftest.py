"""Tiny random models of every family the engine runs."""

import pytest

SIZES = {
    "vocab_size": 97, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 5,
    "num_attention_heads": 6, "num_key_value_heads": 2, "max_position_embeddings": 256,
    "initializer_range": 0.3, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 0,
}  # fmt: skip


def _llama(**options):
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(LlamaConfig(**SIZES | options))


def _mistral(**options):
    from transformers import MistralConfig, MistralForCausalLM

    return MistralForCausalLM(MistralConfig(**SIZES | options))


def _qwen2(**options):
    from transformers import Qwen2Config, Qwen2ForCausalLM

    return Qwen2ForCausalLM(Qwen2Config(**SIZES | options))


def _qwen3(**options):
    from transformers import Qwen3Config, Qwen3ForCausalLM

    return Qwen3ForCausalLM(Qwen3Config(**SIZES | options))


_LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 32,
}  # fmt: skip
_DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
_LONGROPE = {
    "rope_type": "longrope", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 24,
    "short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [1.0, 2.0, 3.0, 4.0],
}  # fmt: skip
_YARN = {
    "rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 64,
}  # fmt: skip
VARIANTS = {
    "llama": (_llama, {}),
    "llama-all-heads": (_llama, {"num_key_value_heads": 6}),
    "llama-tied": (_llama, {"tie_word_embeddings": True}),
    "llama-biases": (_llama, {"attention_bias": True, "mlp_bias": True}),
    "llama3-rope": (_llama, {"rope_parameters": _LLAMA3}),
    "dynamic-rope": (_llama, {"rope_parameters": _DYNAMIC, "max_position_embeddings": 16}),
    "long-rope": (_llama, {"rope_parameters": _LONGROPE}),
    "yarn-rope": (_llama, {"rope_parameters": _YARN}),
    "gelu": (_llama, {"hidden_act": "gelu"}),
    "mistral": (_mistral, {"sliding_window": None}),
    "mistral-window": (_mistral, {"sliding_window": 9}),
    "mistral-head-dim": (_mistral, {"head_dim": 16, "sliding_window": None}),
    "qwen2": (_qwen2, {}),
    "qwen2-window": (_qwen2, {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 2}),
    "qwen3": (_qwen3, {"head_dim": 16}),
}


def build(name):
    import torch

    torch.manual_seed(0)
    make, options = VARIANTS[name]
    model = make(**options).eval()
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            # Zero biases and unit norms would hide a missing term.
            if parameter.dim() == 1:
                noise = torch.randn_like(parameter)
                parameter.copy_(noise * 0.3 + (1 if "norm" in parameter_name else 0))
    model.set_attn_implementation("sdpa")
    return model


@pytest.fixture(scope="session")
def tiny_lm():
    """Return ``tiny_lm(name)`` -> (transformers model, decoder that shares its weights)."""
    from tokenprune.engine.decoder import Decoder

    made = {}

    def get(name):
        if name not in made:
            model = build(name)
            made[name] = (model, Decoder(model))
        return made[name]

    return get


@pytest.fixture(scope="session")
def build_lm():
    return build


def pytest_generate_tests(metafunc):
    if "variant" in metafunc.fixturenames:
        metafunc.parametrize("variant", VARIANTS)
