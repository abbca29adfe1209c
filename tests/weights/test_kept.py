"""Costs against the models themselves."""

import pytest

from tokenprune.errors import ModelError
from tokenprune.weights.kept import Kept, LayerKept, Shape

FAMILIES = ["llama", "mistral", "qwen2", "qwen3", "mixtral", "qwen2_moe", "qwen3_moe"]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tied", [True, False])
def test_params_are_those_of_the_model(tiny_lm, family, tied):
    model = tiny_lm(family, tie_word_embeddings=tied)
    kept = Kept.all_of(model.config)
    assert kept.params(model.config) == sum(p.numel() for p in model.parameters())
    for i, layer in enumerate(model.model.layers):
        assert kept.layer_params(model.config, i) == sum(p.numel() for p in layer.parameters())


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_params_of_smaller_models(tiny_lm, family):
    small = tiny_lm(family, num_attention_heads=2, num_key_value_heads=1, intermediate_size=17)
    dense = tiny_lm(family)
    kept = Kept((LayerKept(True, (1,), True, tuple(range(0, 34, 2))),) * 3)
    assert kept.params(dense.config) == sum(p.numel() for p in small.parameters())
    dropped = Kept((kept.layers[0], LayerKept(False, (), False, ()), kept.layers[2]))
    assert dropped.layers[1].empty
    assert kept.params(dense.config) - dropped.params(dense.config) == sum(
        p.numel() for p in small.model.layers[1].parameters()
    )


def test_biases_flags(tiny_lm):
    model = tiny_lm("llama", attention_bias=True, mlp_bias=True)
    assert Kept.all_of(model.config).params(model.config) == sum(p.numel() for p in model.parameters())


def test_kv_bytes_and_flops(tiny_lm):
    config = tiny_lm().config
    kept = Kept.all_of(config)
    assert kept.kv_bytes_per_token(config) == 3 * 2 * 2 * 8 * 2
    # one token: two operations for each weight of the matrices, plus attention of one query to one key
    matrices = 3 * (32 * 32 * 2 + 2 * 32 * 16 + 3 * 32 * 48) + 67 * 32
    assert kept.prefill_flops(config, 1) == 2 * matrices + 3 * 4 * 32
    half = Kept((LayerKept(True, (0,), True, tuple(range(24))),) * 3)
    head = 2 * 67 * 32
    assert 2 * (half.prefill_flops(config, 9) - head) == kept.prefill_flops(config, 9) - head


def test_a_model_that_was_pruned_already(tiny_lm):
    from tokenprune.weights.materialise import materialise

    model = tiny_lm()
    whole = Kept.all_of(model.config).layers
    small = materialise(model, Kept((LayerKept(True, (1,), True, (0, 1)), *whole[1:])))
    with pytest.raises(ModelError, match="pruned already"):
        Shape.of(small.config)


def test_unknown_architecture(tiny_lm):
    from transformers import GPT2Config

    with pytest.raises(ModelError, match="gpt2"):
        Shape.of(GPT2Config())
