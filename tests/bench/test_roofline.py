"""Cost on paper against values worked out by hand, transformers' own modules and measured prefills."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenprune.bench.roofline import (
    HARDWARE,
    Hardware,
    ModelShape,
    hardware,
    prefill_seconds,
    read_shape,
    shape_of,
)
from tokenprune.errors import ConfigError, UnknownNameError

# SmolLM2-135M: 30 layers, hidden 576, 9 heads and 3 KV heads of 64, feed-forward 1536, 49152 words, tied.
SMOL = ModelShape(30, 576, 9, 3, 64, 1536, 49152, tied=True)


def test_smollm2_by_hand():
    attention = 576 * 9 * 64 * 2 + 576 * 3 * 64 * 2  # q and o; k and v
    feed_forward = 3 * 576 * 1536
    assert SMOL.parameters == 30 * (attention + feed_forward + 2 * 576) + 49152 * 576 + 576 == 134_515_008
    assert SMOL.linear_flops == 2 * 30 * (884_736 + 2_654_208) == 212_336_640
    assert SMOL.kv_bytes_per_token == 2 * 30 * 3 * 64 * 2 == 23_040
    assert SMOL.total_weight_bytes == 269_030_016
    # 2,048 tokens: 2,098,176 pairs, 4 operations for each of 9 x 64 numbers in 30 layers
    assert SMOL.attention_flops(2048) == 4 * 30 * 576 * 2_098_176 == 145_025_925_120
    assert SMOL.attention_flops(2048, causal=False) == 4 * 30 * 576 * 2048**2
    assert SMOL.prefill_flops(2048) == 2048 * 212_336_640 + 145_025_925_120 + 2 * 576 * 49152


@pytest.mark.models
def test_smollm2_is_what_its_checkpoint_holds():
    from safetensors import safe_open

    from tokenprune.models.catalog import model_path

    folder = model_path("smollm2-135m")
    assert read_shape(folder) == read_shape(str(folder / "config.json")) == SMOL
    with safe_open(folder / "model.safetensors", "pt") as file:
        counted = 0
        for name in file.keys():  # noqa: SIM118 (it is no mapping)
            size = 1
            for side in file.get_slice(name).get_shape():
                size *= side
            counted += size if name != "lm_head.weight" else 0  # tied: may be stored a second time
    assert counted == SMOL.parameters


CONFIGS = [
    {"model_type": "llama"},
    {"model_type": "llama", "num_key_value_heads": 4, "tie_word_embeddings": True},
    {"model_type": "mistral", "head_dim": 16},
    {"model_type": "qwen2"},
    {"model_type": "qwen3", "head_dim": 16},
    {"model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2},
    {
        "model_type": "qwen2_moe",
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 24,
        "shared_expert_intermediate_size": 48,
    },
    {
        "model_type": "qwen3_moe",
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 24,
        "head_dim": 16,
    },
]
_SIZES = {
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 3,
    "intermediate_size": 80,
    "vocab_size": 96,
    "tie_word_embeddings": False,
}


@pytest.mark.parametrize("special", CONFIGS, ids=lambda c: f"{c['model_type']}-{len(c)}")
def test_parameters_are_those_of_transformers(special):
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config: dict[str, Any] = {**_SIZES, **special}
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))
    assert shape_of(config).parameters == sum(p.numel() for p in model.parameters())


def test_flops_of_a_mixture_are_those_of_active_experts():
    dense = shape_of({**_SIZES, "model_type": "mistral"})
    mixture = shape_of({**_SIZES, **CONFIGS[5]})
    expert = 3 * 32 * 80
    assert mixture.linear_flops - dense.linear_flops == 2 * 3 * (expert + 32 * 4)  # one more, and the router
    assert mixture.parameters - dense.parameters == 3 * (3 * expert + 32 * 4)


@given(tokens=st.integers(1, 3000), cached=st.integers(0, 3000))
def test_attention_adds_up(tokens, cached):
    cached = min(cached, tokens)
    assert SMOL.attention_flops(cached) + SMOL.attention_flops(tokens, cached) == SMOL.attention_flops(tokens)
    assert SMOL.prefill_flops(tokens, cached) <= SMOL.prefill_flops(tokens)
    assert SMOL.prefill_flops(tokens, tokens) == SMOL.prefill_flops(tokens, tokens - 1) > 0
    pairs = sum(range(cached + 1, tokens + 1))
    assert SMOL.attention_flops(tokens, cached) == 4 * 30 * 9 * 64 * pairs


@pytest.mark.parametrize(
    ("tokens", "measured"), [(256, 0.43), (512, 0.90), (1024, 1.93), (2048, 4.59), (4096, 12.6)]
)
def test_predicts_what_vllm_took_on_two_cores(tokens, measured):
    """TTFT of vLLM 0.32 on a quiet machine, SmolLM2-135M, bfloat16."""
    assert prefill_seconds(SMOL, hardware("cpu-2core"), tokens) == pytest.approx(measured, rel=0.12)


def test_the_longer_of_arithmetic_and_memory():
    slow_memory = Hardware("x", 1e15, 1e9, "", 0.5)
    moved = SMOL.total_weight_bytes + 10 * SMOL.kv_bytes_per_token
    assert prefill_seconds(SMOL, slow_memory, 10) == pytest.approx(moved / 1e9 / 0.5)
    slow_units = Hardware("x", 1e9, 1e15, "", 0.5)
    assert prefill_seconds(SMOL, slow_units, 10) == pytest.approx(SMOL.prefill_flops(10) / 1e9 / 0.5)
    assert prefill_seconds(SMOL, slow_units, 0) == 0


def test_hardware():
    assert set(HARDWARE) == {"a100", "h100", "l4", "rtx4090", "cpu-2core"}
    assert all(h.source and h.flops > h.bandwidth > 0 and 0 < h.utilisation <= 1 for h in HARDWARE.values())
    assert hardware("a100", 0.3).utilisation == 0.3
    with pytest.raises(UnknownNameError, match="unknown hardware 'tpu'; known names: a100"):
        hardware("tpu")
    for wrong in (0, 1.1, -1, float("nan")):
        with pytest.raises(ConfigError, match="utilisation must be above 0"):
            hardware("a100", wrong)


def test_configs_that_cannot_be_read(tmp_path):
    with pytest.raises(ConfigError, match=r"config\.json of the model in .* cannot be read"):
        read_shape(tmp_path)
    file = tmp_path / "config.json"
    for text, fault in (
        ("{", "cannot be read: Expecting"),
        ("[]", "holds no object"),
        ('{"model_type": "gpt2"}', "model_type 'gpt2' is not known here; known: llama"),
        (
            '{"model_type": "llama", "hidden_size": 8}',
            "lacks a size or holds a wrong one: 'num_attention_heads'",
        ),
        (
            json.dumps({**_SIZES, "model_type": "llama", "vocab_size": "x"}),
            "lacks a size or holds a wrong one",
        ),
        (json.dumps({**_SIZES, "model_type": "llama", "attention_bias": True}), "attention_bias"),
    ):
        file.write_text(text)
        with pytest.raises(ConfigError, match=fault):
            read_shape(file)


def test_bytes_by_number_format():
    assert shape_of({**_SIZES, "model_type": "llama", "torch_dtype": "float32"}).weight_bytes == 4
    assert shape_of({**_SIZES, "model_type": "llama"}).weight_bytes == 2
