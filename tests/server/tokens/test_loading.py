"""What a proxy does while the model that chooses tokens is not there: not yet, not now, or never."""

import shutil
import time

import httpx
import pytest
from token_world import DOCUMENT, FACTS, PROMPT, QUESTION, once_ready, save_model, stage, wait_for

from tokenprune.errors import ConfigError


@pytest.mark.parametrize("pipeline", ["default", "keep-all"])
def test_a_chat_does_not_wait_for_the_model(door, pipeline):
    """Text is pruned meanwhile, even where a single thread prunes."""
    loads = []  # the lock that a load holds

    def hold(app):
        loads.append(app.runtime.selector._loading)
        loads[0].acquire()

    world = door(before=hold, pipeline=pipeline, workers=1)
    content = "Context:\n{}\n\nQuestion: How old is the ferry of Oslo?\nAnswer:".format("\n".join(FACTS))
    ask = {"messages": [{"role": "user", "content": content}]}
    began = time.monotonic()
    try:
        reply = world.ask(**ask)
        assert time.monotonic() - began < 5
        assert stage(reply) == "skipped:loading"
        sent = world.upstream.last[1]["messages"][0]["content"]
        if pipeline == "default":
            assert reply.headers["x-tokenprune-decision"] == "pruned"
            assert len(sent) < len(content) / 2
        else:
            assert reply.headers["x-tokenprune-decision"] == "skipped:nothing-to-drop"
            assert sent == content
        assert httpx.get(f"{world.url}/readyz").status_code == 503
        # What cannot lose tokens says so, as ever.
        page = "<html><body>" + "".join(f"<p>{fact}</p>" for fact in FACTS) + "</body></html>"
        html = world.ask(messages=[{"role": "user", "content": f"{page}\n\nQuestion: {QUESTION}"}])
        assert stage(html) == "skipped:no-documents"
    finally:
        loads[0].release()
    assert once_ready(world.url).status_code == 200
    assert stage(world.ask()) == "ids"


@pytest.fixture
def damaged(folder, tmp_path):
    """A model whose files look right until they are loaded."""
    shutil.copytree(folder, tmp_path / "damaged")
    (tmp_path / "damaged" / "model.safetensors").write_bytes(b"not what it says")
    return tmp_path / "damaged"


def test_a_model_that_cannot_be_loaded_fails_open(door, damaged, caplog):
    world = door(tokens={"model": str(damaged)})
    ready = httpx.get(f"{world.url}/readyz")
    assert ready.status_code == 503
    assert "selection of prompt tokens cannot be used: cannot read the weights of" in ready.json()["reason"]
    (said,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert str(damaged) in said.message, "said at once, before any request"
    reply = world.ask()
    assert reply.status_code == 200
    assert stage(reply) == "failed:ModelError"
    assert reply.headers["x-tokenprune-decision"] == "failed:ModelError"
    assert world.upstream.last[1]["messages"][0]["content"] == PROMPT
    assert httpx.get(f"{world.url}/readyz").json() == ready.json(), "no request hides it"
    closed = door(tokens={"model": str(damaged)}, fail="closed").ask()
    assert closed.status_code == 503


def test_a_model_that_can_be_loaded_later_is_used(door, folder, damaged, monkeypatch):
    monkeypatch.setattr("tokenprune_server.runtime._RELOAD_S", 0.0)
    world = door(tokens={"model": str(damaged)})
    shutil.copy(folder / "model.safetensors", damaged)
    assert stage(world.ask()) == "failed:ModelError", "which begins to load it, and does not wait"
    wait_for(lambda: httpx.get(f"{world.url}/readyz").status_code == 200)
    other = f"Context:\n{DOCUMENT}\n\nQuestion: Which market is in Quito?\nAnswer:"
    assert stage(world.ask(messages=[{"role": "user", "content": other}])) == "ids"


@pytest.mark.parametrize(
    ("tokens", "said"),
    [
        ({"model": "smolm2"}, "server.tokens.model: unknown model 'smolm2'"),
        ({"model": "./nothing"}, "server.tokens.model: no model folder at './nothing'"),
        ({"model": "minilm-l6"}, "server.tokens.model: 'minilm-l6' is a model for embedding"),
        ({"model": "provence-mini"}, "server.tokens.model: 'provence-mini' is a model for labeling"),
        ({"tokenizer": "./nothing"}, "server.tokens.tokenizer: no model folder"),
        ({"layer": 4}, r"server.tokens.layer: the layer must lie in 1..3 for this model, not 4"),
    ],
)
def test_what_is_seen_to_be_wrong_ends_the_start(door, tokens, said):
    with pytest.raises(ConfigError, match=said):
        door(tokens=tokens)


def test_a_model_of_one_layer_ends_the_start(door, tmp_path):
    """None of its layers is early; those methods that need none run it."""
    small = str(save_model(tmp_path / "small", layers=1))
    with pytest.raises(ConfigError, match=r"server.tokens.layer: a model of one layer"):
        door(tokens={"model": small, "layer": None})
    world = door(tokens={"model": small, "layer": None, "method": "specprefill"})
    assert httpx.get(f"{world.url}/readyz").status_code == 200


def test_a_hub_that_cannot_be_reached_is_said_at_first_use(door, tmp_path, monkeypatch):
    """The start is not ended: the hub may be back when the model is asked for again."""
    from huggingface_hub import constants

    nowhere = "http://127.0.0.1:9"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", nowhere)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", nowhere + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    world = door(tokens={"model": "nobody/nothing"})
    reason = httpx.get(f"{world.url}/readyz").json()["reason"]
    assert "cannot load 'nobody/nothing'" in reason
    assert "give a folder in Hugging Face layout" in reason
    assert stage(world.ask()) == "failed:ModelError"


def test_a_model_without_a_tokenizer_ends_the_start(door, folder, tmp_path):
    for name in ("config.json", "model.safetensors"):
        shutil.copy(folder / name, tmp_path)
    with pytest.raises(ConfigError, match=r"server.tokens.model: .* holds no tokenizer"):
        door(tokens={"model": str(tmp_path), "tokenizer": str(folder)})
    with pytest.raises(ConfigError, match=r"server.tokens.tokenizer: .* holds no tokenizer"):
        door(tokens={"tokenizer": str(tmp_path)})
