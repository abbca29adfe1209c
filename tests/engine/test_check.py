"""What is seen of a model without loading it."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

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


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub on this machine: ``hub(files, config)`` has one model, ``o/m``; the cache is empty."""
    from huggingface_hub import constants

    asked = []

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            about = {"id": "o/m", "sha": "1" * 40, "siblings": [{"rfilename": f} for f in self.server.files]}
            body = json.dumps(about if self.path.startswith("/api") else self.server.config).encode()
            there = self.path.startswith(("/api/models/o/m", "/o/m/resolve/main/config.json"))
            self.send_response(200 if there else 401)
            if not there:
                body = b"{}"
                self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("X-Repo-Commit", "1" * 40)
            self.send_header("ETag", '"e"')
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", url)
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))

    def make(*files, **config):
        server.files, server.config = ("config.json", *files), config
        return asked

    yield make
    server.shutdown()
    server.server_close()


def test_a_model_of_the_hub_is_looked_at(hub):
    """Before it is fetched: what the hub has of it decides."""
    asked = hub("model.safetensors", "tokenizer.json", model_type="llama", num_hidden_layers=4)
    check_model("o/m", layer=3)
    check_tokenizer("o/m")
    assert not any("safetensors" in path for path in asked)
    with pytest.raises(ConfigError, match="layer"):
        check_model("o/m", layer=4)


@pytest.mark.parametrize(
    ("files", "kind", "said"),
    [
        (["model.safetensors"], "gpt2", "cannot run 'o/m', of type 'gpt2'"),
        (["pytorch_model.bin"], "llama", "'o/m' holds no safetensors file"),
    ],
)
def test_a_model_of_the_hub_that_cannot_be_used(hub, files, kind, said):
    hub(*files, model_type=kind)
    with pytest.raises(ModelError, match=said):
        check_model("o/m")


def test_what_the_hub_does_not_have(hub):
    hub("model.safetensors", model_type="llama")
    check_model("o/m")  # which fetches its config
    with pytest.raises(ModelError, match=r"'o/m' holds no tokenizer"):
        check_tokenizer("o/m")
    for check in (check_model, check_tokenizer):
        with pytest.raises(ModelError, match=r"'o/other' .* correct the name, give a folder .*log in"):
            check("o/other")


def test_the_hub_is_not_asked_about_what_is_here(hub, tmp_path):
    asked = hub("model.safetensors", "tokenizer.json", model_type="llama")
    check_model("o/m")
    (snapshot,) = (tmp_path / "hub").glob("models--o--m/snapshots/*")
    for name in ("model.safetensors", "tokenizer.json"):
        (snapshot / name).touch()
    asked.clear()
    check_model("o/m")
    check_tokenizer("o/m")
    assert not asked


def test_a_hub_that_cannot_be_reached_is_waited_for(hub, monkeypatch, caplog):
    from huggingface_hub import constants

    hub()
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    check_model("o/m")
    check_tokenizer("o/m")
    assert "cannot be asked about 'o/m', to be fetched when it is needed" in caplog.text


@pytest.mark.parametrize(("layer", "layers"), [(4, 4), (9, 4), (1, 1)])
def test_a_layer_that_the_model_lacks(tmp_path, layer, layers):
    found = folder_of(tmp_path, "model.safetensors", model_type="llama", num_hidden_layers=layers)
    with pytest.raises(ConfigError, match="layer"):
        check_model(found, layer)
