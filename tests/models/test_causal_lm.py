from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from tokenprune.errors import ModelError
from tokenprune.models.causal_lm import fresh_causal_lm, load_causal_lm
from tokenprune.models.device import DTYPES, cpu_has_bf16, pick_device, pick_dtype

pytestmark = pytest.mark.models


def test_load_smollm2_once() -> None:
    import torch

    lm = load_causal_lm("smollm2-135m")
    assert load_causal_lm("smollm2-135m") is lm
    assert lm.max_positions == 8192
    assert lm.eos_ids == {2}
    assert not lm.model.training
    assert lm.model.dtype is (torch.bfloat16 if cpu_has_bf16() else torch.float32)
    assert lm.tokenizer.chat_template


def test_folder_without_a_model(tmp_path) -> None:
    with pytest.raises(ModelError, match="causal language model"):
        load_causal_lm(str(tmp_path))


def _tiny_llama(folder):
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=64, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    config.save_pretrained(folder)
    load_causal_lm("smollm2-135m").tokenizer.save_pretrained(folder)
    return LlamaForCausalLM(config)


def test_pickled_weights_are_refused(tmp_path) -> None:
    import torch

    torch.save(_tiny_llama(tmp_path).state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match="safetensors"):
        load_causal_lm(str(tmp_path))


def test_missing_weights_are_not_drawn_at_random(tmp_path) -> None:
    from safetensors.torch import save_file

    weights = _tiny_llama(tmp_path).state_dict()
    del weights["model.layers.0.mlp.up_proj.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks 1 of its weights, model\.layers\.0\.mlp\.up_proj\.weight"):
        load_causal_lm(str(tmp_path))


def test_models_that_are_loaded_at_once_are_whole(tmp_path) -> None:
    """Transformers changes globals while it loads: two loads that mix leave weights untied."""
    import torch
    from transformers import AutoModelForCausalLM, PreTrainedModel

    config = _tiny_llama(tmp_path).config
    config.tie_word_embeddings = True
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    tie = PreTrainedModel.tie_weights
    with ThreadPoolExecutor(2) as pool:
        loads = [pool.submit(fresh_causal_lm, str(tmp_path), dtype) for dtype in DTYPES[::2] * 3]
        models = [load.result().model for load in loads]
    assert PreTrainedModel.tie_weights is tie
    for dtype, model in zip(DTYPES[::2] * 3, models, strict=True):
        assert {p.dtype for p in model.parameters()} == {getattr(torch, dtype)}
        assert model.lm_head.weight is model.model.embed_tokens.weight


def test_what_is_no_causal_model_is_said(tmp_path) -> None:
    from tokenprune.models.catalog import model_path

    for name in ("minilm-l6", "provence-mini"):
        with pytest.raises(ModelError, match=r"needed is one for causal-lm: smollm2-135m"):
            load_causal_lm(name)
    with pytest.raises(ModelError, match="is a BertModel: needed is a causal language model"):
        load_causal_lm(str(model_path("minilm-l6")))
    _tiny_llama(tmp_path).save_pretrained(tmp_path)
    for file in tmp_path.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(ModelError, match=r"holds no tokenizer \(tokenizer.json"):
        load_causal_lm(str(tmp_path))


def test_a_tokenizer_of_another_model(tmp_path) -> None:
    """It loads, as more tokens than are embedded may never be made; where one is, it is said so."""
    import tokenprune as tp

    _tiny_llama(tmp_path).save_pretrained(tmp_path)
    said = r"makes the id \d+, and the model embeds 64 tokens only: put the tokenizer beside it"
    method = tp.pruner("lazyllm", model=str(tmp_path), dtype="float32")
    with pytest.raises(ModelError, match=said):
        tp.Pipeline([method]).prune("Who?", ["Somebody wrote a few lines of text."])


def test_device_and_dtype() -> None:
    assert pick_device("cpu") == "cpu"
    for name in DTYPES:
        assert str(pick_dtype("cpu", name)) == f"torch.{name}"
    with pytest.raises(ModelError, match="unknown dtype 'int3'"):
        pick_dtype("cpu", "int3")
    with pytest.raises(ModelError, match="device 'nonsense'"):
        pick_device("nonsense")


@pytest.mark.parametrize(("generation", "dtype"), [(7, "float16"), (8, "bfloat16")])
def test_a_gpu_that_only_emulates_bfloat16_computes_in_float16(generation, dtype, monkeypatch) -> None:
    import torch

    properties = SimpleNamespace(major=generation)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.current_device", lambda: 0)
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda device: properties)
    monkeypatch.setattr("torch.cuda._check_bf16_tensor_supported", lambda device: True)  # by emulation
    assert pick_dtype("cuda", None) is getattr(torch, dtype)
