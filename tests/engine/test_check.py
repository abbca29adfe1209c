"""What is seen of a model without loading it."""

import json

import pytest
from token_world import save_model

pytest.importorskip("transformers")

from tokenprune.engine.check import check_model, check_tokenizer
from tokenprune.engine.weights import FAMILIES
from tokenprune.errors import ConfigError, ModelError


def folder_of(tmp_path, *files, **config):
    (tmp_path / "config.json").write_text(json.dumps(config))
    for file in files:
        (tmp_path / file).touch()
    return str(tmp_path)


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
def test_families_of_the_engine_pass(tmp_path, family):
    found = folder_of(tmp_path, "model-00001-of-00002.safetensors", "tokenizer.json", model_type=family)
    check_model(found)
    check_tokenizer(found)


def test_a_saved_model_and_named_ones_pass(tmp_path):
    saved = str(save_model(tmp_path / "model", layers=4))
    check_model(saved, layer=3)
    check_tokenizer(saved)
    for name in ("smollm2-135m", "llava-mini"):  # not fetched for it
        check_model(name)
        check_tokenizer(name)


@pytest.mark.parametrize(
    ("text", "passes"),
    [({"model_type": "qwen2"}, True), ({}, True), (None, True), ({"model_type": "phi"}, False)],
)
def test_the_language_model_behind_a_vision_tower_counts(tmp_path, text, passes):
    found = folder_of(tmp_path, "model.safetensors", model_type="llava_onevision", text_config=text)
    if passes:
        check_model(found)
        return
    with pytest.raises(ModelError, match="of type 'phi' in a 'llava_onevision'"):
        check_model(found)


def test_another_family_is_refused_with_those_that_run(tmp_path):
    with pytest.raises(ModelError, match=r"cannot run .*, of type 'gpt2'") as caught:
        check_model(folder_of(tmp_path, "model.safetensors", model_type="gpt2"))
    assert all(family in str(caught.value) for family in FAMILIES)


@pytest.mark.parametrize(
    ("files", "config", "said"),
    [
        (["model.safetensors"], "{", "config.json of .* cannot be read"),
        (["model.safetensors"], "[]", "config.json of .* holds no object"),
        (["pytorch_model.bin"], '{"model_type": "llama"}', "no safetensors file"),
    ],
)
def test_folders_that_are_no_model(tmp_path, files, config, said):
    found = folder_of(tmp_path, *files)
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(ModelError, match=said):
        check_model(found)
    with pytest.raises(ModelError, match="holds no tokenizer"):
        check_tokenizer(found)


def test_names_that_there_are_not(tmp_path, monkeypatch):
    with pytest.raises(ModelError, match="no model folder at"):
        check_model(str(tmp_path / "nothing"))
    with pytest.raises(ModelError, match=r"unknown model 'smolm'.*smollm2-135m"):
        check_model("smolm")
    with pytest.raises(ModelError, match="for embedding; needed is one for causal-lm"):
        check_model("minilm-l6")
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=r"'nobody/nothing' .* was not downloaded"):
        check_model("nobody/nothing")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    check_model("nobody/nothing")  # only the hub knows


@pytest.mark.parametrize(("layer", "layers"), [(4, 4), (9, 4), (1, 1)])
def test_a_layer_that_the_model_lacks(tmp_path, layer, layers):
    found = folder_of(tmp_path, "model.safetensors", model_type="llama", num_hidden_layers=layers)
    with pytest.raises(ConfigError, match="layer"):
        check_model(found, layer)
