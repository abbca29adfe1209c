"""Tiny random decoders of all families."""

import pytest
import torch


def build(family="llama", seed=0, **options):
    import transformers

    torch.manual_seed(seed)
    base = {
        "vocab_size": 67,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 128,
        "tie_word_embeddings": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    if family == "mixtral":
        base |= {"num_local_experts": 6, "num_experts_per_tok": 2}
    if family in ("qwen2_moe", "qwen3_moe"):
        base |= {
            "num_experts": 6,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 24,
            "decoder_sparse_step": 1,
        }
    if family == "qwen2_moe":
        base |= {"shared_expert_intermediate_size": 20}
    names = {
        "llama": "Llama",
        "mistral": "Mistral",
        "qwen2": "Qwen2",
        "qwen3": "Qwen3",
        "mixtral": "Mixtral",
        "qwen2_moe": "Qwen2Moe",
        "qwen3_moe": "Qwen3Moe",
        "gpt2": "GPT2",
    }
    config = getattr(transformers, names[family] + "Config")(**(base | options))
    model = getattr(transformers, names[family] + "ForCausalLM")(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.add_(torch.rand_like(parameter) * 0.2)
            elif name.endswith("bias"):
                parameter.add_(torch.randn_like(parameter) * 0.1)
            else:  # far from zero, so that every part matters
                parameter.copy_(torch.randn_like(parameter) * 0.15)
    return model


@pytest.fixture
def tiny_lm():
    return build


@pytest.fixture
def windows():
    return torch.randint(3, 67, (6, 24), generator=torch.Generator().manual_seed(5))
