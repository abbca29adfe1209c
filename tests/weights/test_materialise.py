"""Slices cut out of a model leave what the dense model computes with zeros in their place."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pruned_models import LAYERS, WAYS, WIDTH, biases, flap, layer, narrow, some_ids, tiny, way, zeroed

from tokenprune.errors import ModelError
from tokenprune.weights.kept import Kept
from tokenprune.weights.masked import masked
from tokenprune.weights.materialise import materialise

PLAIN = {("llama", "narrow-biased"), ("llama", "few-heads"), ("mistral", "few-heads"), ("qwen3", "few-heads")}


def logits(model, ids=None):
    with torch.no_grad():
        return model(some_ids(2, 33) if ids is None else ids, use_cache=False).logits


@pytest.mark.parametrize("name", WAYS)
@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
def test_cut_is_masked(family, name):
    dense = tiny(family)
    before = logits(dense)
    kept, added = way(dense, name)
    small = materialise(dense, kept, added)
    expected = logits(zeroed(dense, kept, added))
    assert (expected - before).abs().max() > 0.1
    torch.testing.assert_close(logits(small), expected, atol=2e-5, rtol=1e-4)
    with masked(dense, kept, added):
        torch.testing.assert_close(logits(dense), expected, atol=2e-5, rtol=1e-4)
    assert torch.equal(logits(dense), before)
    plain = name in ("narrow", "shallow") or (family, name) in PLAIN
    assert (type(small) is type(dense)) == plain
    if not plain or name != "narrow-biased":  # a plain class has zeros where others have no bias
        assert small.num_parameters() == kept.params(dense.config, added)


@pytest.mark.parametrize("tied", [True, False])
def test_nothing_is_shared(tied):
    dense = tiny(tie_word_embeddings=tied)
    small = materialise(dense, flap())
    assert not {p.data_ptr() for p in dense.parameters()} & {p.data_ptr() for p in small.parameters()}
    assert (small.lm_head.weight is small.model.embed_tokens.weight) == tied
    assert not any(tensor.is_meta for tensor in [*small.parameters(), *small.buffers()])
    assert all(parameter.requires_grad for parameter in small.parameters())


def test_weights_keep_their_type():
    dense = tiny().to(torch.bfloat16).train()
    small = materialise(dense, flap(), biases("0.o_bias"))
    assert {p.dtype for p in small.parameters()} == {torch.bfloat16}
    assert small.training


def test_llama_with_its_own_biases():
    dense = tiny(attention_bias=True, mlp_bias=True)
    for name in ("flap", "finer-biased", "narrow"):
        kept, added = way(dense, name)
        torch.testing.assert_close(
            logits(materialise(dense, kept, added)), logits(zeroed(dense, kept, added)), atol=2e-5, rtol=1e-4
        )


def test_layers_of_two_kinds_keep_their_kind():
    kinds = ["full_attention", "sliding_attention", "full_attention", "sliding_attention"]
    dense = tiny("qwen2", use_sliding_window=True, sliding_window=5, max_window_layers=4, layer_types=kinds)
    kept = Kept((layer((), ()), layer((1,)), layer((0, 1), range(9)), layer((0,), ())))
    small = materialise(dense, kept)
    assert small.config.layer_types == kinds[1:]
    torch.testing.assert_close(logits(small), logits(zeroed(dense, kept, {})), atol=2e-5, rtol=1e-4)


@st.composite
def kepts(draw):
    some = st.lists(st.integers(0, 3), max_size=4, unique=True).map(sorted)
    wide = st.one_of(
        st.just([]), st.lists(st.integers(0, WIDTH - 1), min_size=1, max_size=9, unique=True).map(sorted)
    )
    layers = draw(st.lists(st.tuples(some, wide), min_size=LAYERS, max_size=LAYERS))
    names = [f"{i}.{kind}" for i in range(LAYERS) for kind in ("o_bias", "down_bias")]
    added = draw(st.lists(st.sampled_from(names), unique=True, max_size=3))
    return Kept(tuple(layer(groups, channels) for groups, channels in layers)), biases(*added)


@settings(max_examples=15)
@given(kepts())
def test_any_choice(chosen):
    kept, added = chosen
    dense = tiny()
    if all(stays.empty for stays in kept.layers) and not added:
        with pytest.raises(ModelError, match="nothing is left"):
            materialise(dense, kept, added)
        return
    small = materialise(dense, kept, added)
    # Among all choices there are some of which float32's rounding alone moves a logit by 5e-5.
    torch.testing.assert_close(logits(small), logits(zeroed(dense, kept, added)), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", ["mixtral", "qwen2_moe", "qwen3_moe"])
@pytest.mark.parametrize("experts", [(0, 2, 3, 5), (4,)])
def test_experts(family, experts):
    dense = tiny(family)
    whole = Kept.all_of(dense.config)
    kept = []
    for index, stays in enumerate(whole.layers):
        if index == 2:
            kept.append(layer((), (), stays.experts))
        elif stays.experts is None:
            kept.append(layer((1, 3), range(0, WIDTH, 3)))
        else:
            kept.append(layer((1, 3), range(8, len(stays.channels)), experts))
    kept = Kept(tuple(kept))
    small = materialise(dense, kept)
    assert type(small) is type(dense)
    assert small.num_parameters() == kept.params(dense.config)
    before = logits(dense)
    with masked(dense, kept):
        expected = logits(dense)
    assert (expected - before).abs().max() > 0.1
    torch.testing.assert_close(logits(small), expected, atol=2e-5, rtol=1e-4)


def test_experts_come_out_alike():
    dense = tiny("mixtral")
    kept = Kept(tuple(layer(experts=(0, 1) if i else (0, 1, 2)) for i in range(LAYERS)))
    with pytest.raises(ModelError, match="uniform allocation"):
        materialise(dense, kept)
    alike = Kept((layer(experts=(0, 1)),) * LAYERS)
    with pytest.raises(ModelError, match="no place for biases"):
        materialise(dense, alike, biases("0.o_bias"))
    odd = Kept((layer(channels=range(9), experts=(0, 1)),) * LAYERS)
    with pytest.raises(ModelError, match="multiple of 8"):
        materialise(dense, odd)


@pytest.mark.parametrize(
    ("kept", "added", "message"),
    [
        (Kept((layer(),) * 3), {}, "3 layers, the model has 4"),
        (Kept((layer((1, 0)),) * 4), {}, "must be ascending"),
        (Kept((layer((0, 4)),) * 4), {}, r"in 0\.\.3"),
        (Kept((layer(channels=(5, 5)),) * 4), {}, "each once"),
        (Kept((layer(experts=(0,)),) * 4), {}, "for no other"),
        (Kept((layer((), ()),) * 4), {}, "nothing is left"),
        (narrow(), {"layers.9.o_bias": torch.zeros(128)}, "names no bias"),
        (narrow(), {"layers.0.q_bias": torch.zeros(128)}, "names no bias"),
        (narrow(), {"layers.0.o_bias": torch.zeros(5)}, "has shape"),
    ],
)
def test_what_does_not_fit(kept, added, message):
    with pytest.raises(ModelError, match=message):
        materialise(tiny(), kept, added)


def test_hooks_go_even_after_an_error():
    dense = tiny()
    before = logits(dense)
    with pytest.raises(ZeroDivisionError), masked(dense, flap()):
        _ = 1 / 0
    assert torch.equal(logits(dense), before)
