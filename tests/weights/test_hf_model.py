"""Pruned checkpoints in transformers: loading, generating, training."""

import subprocess
import sys

import pytest
import torch
from pruned_models import finer, flap, greedy, some_ids, tiny, way, zeroed
from transformers import AutoModelForCausalLM

from tokenprune.errors import ModelError
from tokenprune.weights import shapes
from tokenprune.weights.hf_model import MODELS
from tokenprune.weights.materialise import materialise

# Sound with a cache and without: the first attention is dropped, another one, and a whole layer.
CASES = [
    (family, name) for family in ("llama", "mistral", "qwen2", "qwen3") for name in ("finer-biased", "flap")
]


@pytest.mark.parametrize(("family", "name"), CASES)
def test_generate(family, name):
    dense = tiny(family)
    kept, added = way(dense, name)
    small, reference = materialise(dense, kept, added), zeroed(dense, kept, added)
    long, short = some_ids(21).tolist(), some_ids(6, seed=4).tolist()
    expected = [greedy(reference, prompt, 10) for prompt in (long, short)]
    padding = len(long) - len(short)
    batch = torch.tensor([long, [0] * padding + short])
    mask = torch.tensor([[1] * len(long), [0] * padding + [1] * len(short)])
    for more in ({}, {"cache_implementation": "static"}, {"use_cache": False}):
        out = small.generate(
            batch, attention_mask=mask, max_new_tokens=10, do_sample=False, eos_token_id=None, **more
        )
        assert out[:, len(long) :].tolist() == expected


def test_a_cache_goes_on_where_it_ended():
    dense = tiny()
    kept = finer()
    small, ids = materialise(dense, kept), some_ids(1, 30)
    with torch.no_grad():
        first = small(ids[:, :11], use_cache=True)
        assert first.past_key_values.get_seq_length() == 11
        rest = small(ids[:, 11:], past_key_values=first.past_key_values).logits
        expected = zeroed(dense, kept, {})(ids).logits[:, 11:]
    torch.testing.assert_close(rest, expected, atol=2e-5, rtol=1e-4)


def test_beams_and_prompt_lookup():
    small, ids = materialise(tiny(), finer()), some_ids(1, 12)
    options = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None}
    plain = small.generate(ids, attention_mask=torch.ones_like(ids), **options)
    found = small.generate(ids, attention_mask=torch.ones_like(ids), prompt_lookup_num_tokens=3, **options)
    assert torch.equal(plain, found)
    beams = [
        small.generate(ids, attention_mask=torch.ones_like(ids), num_beams=3, use_cache=cached, **options)
        for cached in (True, False)
    ]
    assert torch.equal(*beams)


@pytest.mark.parametrize("family", MODELS)
def test_saved_and_loaded(family, tmp_path):
    dense = tiny(family, tie_word_embeddings=family == "llama")
    kept, added = way(dense, "finer-biased")
    small = materialise(dense, kept, added)
    small.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager").eval()
    assert type(loaded) is MODELS[family]
    assert loaded.config.architectures == [shapes.ARCHITECTURES[family]] == [MODELS[family].__name__]
    assert loaded.config.prune_layers == shapes.to_config(shapes.from_config(small.config))
    ids = some_ids(2, 17)
    with torch.no_grad():
        found = loaded(ids, output_hidden_states=True, output_attentions=True)
        torch.testing.assert_close(found.logits, small(ids).logits, atol=2e-5, rtol=1e-4)
    assert len(found.hidden_states) == len(loaded.model.layers) + 1
    assert len(found.attentions) == sum(shape.kv_heads > 0 for shape in shapes.from_config(loaded.config))


def test_new_weights_are_those_of_the_family():
    config = materialise(tiny(), flap()).config
    model = MODELS["llama"](config)
    deviation = model.model.layers[1].mlp.down_proj.weight.std()
    assert abs(deviation - config.initializer_range) < 0.03
    assert model.model.layers[1].self_attn.q_proj.weight.std() > 0.1


@pytest.mark.parametrize("checkpointing", [False, True])
def test_every_parameter_learns(checkpointing):
    dense = tiny("qwen2")
    small = materialise(dense, *way(dense, "finer-biased")).train()
    if checkpointing:
        small.gradient_checkpointing_enable()
    ids = some_ids(2, 9)
    small(ids, labels=ids, use_cache=False).loss.backward()
    silent = [n for n, p in small.named_parameters() if p.grad is None or not p.grad.abs().sum()]
    assert all(
        name.endswith("k_proj.bias") for name in silent
    )  # a bias of keys cancels in the softmax, nearly
    assert all(parameter.grad is not None for parameter in small.parameters())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.prune_layers.pop(), "must list 3 layers"),
        (lambda c: setattr(c, "prune_layers", 5), "must list 3 layers"),
        (lambda c: c.prune_layers[0].pop("kv_heads"), "must be an object"),
        (lambda c: c.prune_layers[0].update(wide=3), "must be an object"),
        (lambda c: c.prune_layers[1].update(kv_heads=5), r"0\.\.4"),
        (lambda c: c.prune_layers[1].update(kv_heads=True), r"0\.\.4"),
        (lambda c: c.prune_layers[1].update(intermediate_size=-1), r"0\.\.96"),
        (lambda c: c.prune_layers[1].update(o_bias=1), "true or false"),
        (lambda c: setattr(c, "num_key_value_heads", 3), "cannot be shared"),
    ],
)
def test_a_config_that_was_changed(change, message):
    config = materialise(tiny(), finer()).config
    change(config)
    with pytest.raises((ModelError, TypeError), match=message):
        MODELS["llama"](config)


def test_without_this_package_it_is_refused(tmp_path, warm_python):
    """In a fresh process: refused at first, loaded once tokenprune.weights is imported, which itself is light."""
    dense = tiny()
    kept, added = way(dense, "finer-biased")
    materialise(dense, kept, added).save_pretrained(tmp_path)
    late = f"""
import sys
assert "tokenprune.weights" not in sys.modules
from transformers import AutoModelForCausalLM
AutoModelForCausalLM.from_pretrained({str(tmp_path)!r})
"""
    bare = warm_python.run("python", "-c", late, text=True)
    assert bare.returncode != 0 and "tokenprune_llama" in bare.stderr
    code = f"""
import sys
import tokenprune.weights
assert "transformers" not in sys.modules and "torch" not in sys.modules
from transformers import LlamaConfig, AutoConfig
assert type(AutoConfig.from_pretrained({str(tmp_path)!r})).__name__ == "PrunedLlamaConfig"
from transformers import AutoModelForCausalLM
print(type(AutoModelForCausalLM.from_pretrained({str(tmp_path)!r})).__name__)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "TokenPruneLlamaForCausalLM", done.stderr[-2000:]


def test_what_loads_models_here_knows_them(tmp_path):
    """In a fresh process, without an import of tokenprune.weights by the user."""
    from tokenprune.models.causal_lm import load_tokenizer

    dense = tiny()
    materialise(dense, *way(dense, "finer-biased")).save_pretrained(tmp_path)
    load_tokenizer("smollm2-135m").save_pretrained(tmp_path)
    code = f"""
import sys
from tokenprune.models.causal_lm import fresh_causal_lm
assert "tokenprune.weights" not in sys.modules
print(type(fresh_causal_lm({str(tmp_path)!r}).model).__name__)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "TokenPruneLlamaForCausalLM", done.stderr[-2000:]
