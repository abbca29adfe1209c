"""Exports of a checkpoint: the vision part encodes as the whole does, and the whole has the oldest names."""

import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from tokenprune.errors import ModelError
from tokenprune.vision.encoder import load_vision_encoder
from tokenprune.vision.export import CARD, export_full, export_vision, tensor_name

NEW = {
    "model.vision_tower.": "vision_tower.vision_model.",
    "model.language_model.": "language_model.model.",
    "model.multi_modal_projector.": "multi_modal_projector.",
    "lm_head.": "language_model.lm_head.",
}


def renamed(folder, names):
    """Rename the tensors of a checkpoint: prefixes ``names``, old to new."""
    tensors = load_file(folder / "model.safetensors")
    out = {}
    for name, tensor in tensors.items():
        for old, new in names.items():
            if name.startswith(old):
                name = new + name.removeprefix(old)
                break
        out[name] = tensor
    save_file(out, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.fixture(scope="module")
def source():
    from tokenprune.models.catalog import model_path

    return model_path("llava-mini")


@pytest.fixture
def picture():
    from PIL import Image

    return Image.radial_gradient("L").convert("RGB")


@pytest.mark.parametrize(
    ("name", "oldest"),
    [
        ("model.vision_tower.vision_model.encoder.x", "vision_tower.vision_model.encoder.x"),
        ("model.vision_tower.encoder.x", "vision_tower.vision_model.encoder.x"),
        ("vision_tower.encoder.x", "vision_tower.vision_model.encoder.x"),
        ("model.language_model.layers.0.x", "language_model.model.layers.0.x"),
        ("language_model.model.layers.0.x", "language_model.model.layers.0.x"),
        ("language_model.lm_head.weight", "language_model.lm_head.weight"),
        ("lm_head.weight", "language_model.lm_head.weight"),
        ("model.multi_modal_projector.linear_1.bias", "multi_modal_projector.linear_1.bias"),
    ],
)
def test_names(name, oldest):
    assert tensor_name(name) == oldest
    assert tensor_name(oldest) == oldest


def test_the_vision_part_encodes_as_the_whole(source, picture, tmp_path):
    place = export_vision("llava-mini", tmp_path / "part")
    size = sum(file.stat().st_size for file in place.iterdir())
    assert size < sum(file.stat().st_size for file in source.iterdir()) / 2
    whole, part = (load_vision_encoder(str(folder), dtype="float32") for folder in (source, place))
    for mine, other in zip(part.encode([picture]), whole.encode([picture]), strict=True):
        assert torch.equal(mine.features, other.features)
        assert torch.equal(mine.received, other.received)
    card = json.loads((place / CARD).read_text())
    assert (card["part"], card["source"], card["hidden_size"]) == ("vision", "llava-mini", 192)
    assert card["image_token_id"] == 4
    assert len(card["source_sha256"]["model.safetensors"]) == 64


@pytest.mark.parametrize("names", [{}, {new: old for old, new in NEW.items()}])
def test_the_whole_has_the_names_of_vllm_and_the_same_answers(source, tmp_path, names):
    from transformers import LlavaForConditionalGeneration

    given = shutil.copytree(source, tmp_path / "given")
    renamed(given, names)
    place = export_full(str(given), tmp_path / "full")
    keys = set(load_file(place / "model.safetensors"))
    prefixes = ("vision_tower.vision_model.", "multi_modal_projector.", "language_model.")
    assert all(key.startswith(prefixes) for key in keys)
    models = [LlavaForConditionalGeneration.from_pretrained(f, dtype=torch.float32) for f in (given, place)]
    ids = torch.tensor([[1, 6, 7, 8, 9]])
    with torch.inference_mode():
        one, two = (model(input_ids=ids).logits for model in models)
    assert torch.equal(one, two)
    assert (place / "tokenizer.json").is_file()
    assert (place / "chat_template.jinja").is_file()


def test_shards(source, tmp_path):
    given = shutil.copytree(source, tmp_path / "given")
    tensors = list(load_file(given / "model.safetensors").items())
    (given / "model.safetensors").unlink()
    half = len(tensors) // 2
    for number, part in enumerate((tensors[:half], tensors[half:])):
        save_file(dict(part), given / f"model-{number}.safetensors", metadata={"format": "pt"})
    index = json.loads(
        (export_full(str(given), tmp_path / "full") / "model.safetensors.index.json").read_text()
    )
    assert index["weight_map"].keys() == dict(tensors).keys()
    assert set(index["weight_map"].values()) == {"model-0.safetensors", "model-1.safetensors"}
    part = export_vision(str(given), tmp_path / "part")
    assert load_vision_encoder(str(part)).dimension == 192


def test_what_cannot_be_exported(source, tmp_path):
    other = shutil.copytree(source, tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"model_type": "qwen2_vl"}))
    with pytest.raises(ModelError, match="qwen2_vl"):
        export_vision(str(other), tmp_path / "out")
    (other / "config.json").write_text(json.dumps(config))
    (other / "processor_config.json").unlink()
    with pytest.raises(ModelError, match="image processor"):
        export_vision(str(other), tmp_path / "out")
    shutil.copy(source / "processor_config.json", other)
    renamed(other, {"multi_modal_projector.": "something_else."})
    with pytest.raises(ModelError, match="multi_modal_projector"):
        export_vision(str(other), tmp_path / "out")
    (other / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="safetensors"):
        export_full(str(other), tmp_path / "out")
    (other / "config.json").write_text("[]")
    with pytest.raises(ModelError, match="no object"):
        export_vision(str(other), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_only_an_export_is_overwritten(tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    with pytest.raises(ModelError, match="overwritten"):
        export_vision("llava-mini", mine)
    with pytest.raises(ModelError, match=CARD):
        export_vision("llava-mini", mine, overwrite=True)
    assert (mine / "thesis.txt").is_file()
    place = export_vision("llava-mini", tmp_path / "part")
    (place / "old.json").write_text("")
    export_vision("llava-mini", place, overwrite=True)
    assert not (place / "old.json").exists()
    (place / "old").write_text("")
    with pytest.raises(ModelError, match="holds old beside"):
        export_vision("llava-mini", place, overwrite=True)


def test_the_command(tmp_path):
    from tokenprune.cli.main import app

    run = CliRunner().invoke(app, ["vision", "export", "llava-mini", str(tmp_path / "out")])
    assert run.exit_code == 0, run.output
    assert "written" in run.output
    assert json.loads((tmp_path / "out" / CARD).read_text())["part"] == "vision"


def test_a_vision_part_has_no_whole(tmp_path):
    part = export_vision("llava-mini", tmp_path / "part")
    with pytest.raises(ModelError, match="is the vision part of a checkpoint"):
        export_full(str(part), tmp_path / "whole")
    assert not (tmp_path / "whole").exists()


def test_others_may_read_all_files(tmp_path):
    """safetensors writes files that only their owner reads; a server often runs as somebody else."""
    before = os.umask(0o022)
    try:
        for write, name in ((export_vision, "part"), (export_full, "whole")):
            folder = write("llava-mini", tmp_path / name)
            assert {file.stat().st_mode & 0o777 for file in folder.iterdir()} == {0o644}
            assert folder.stat().st_mode & 0o777 == 0o755
        os.umask(0o077)
        folder = export_vision("llava-mini", tmp_path / "secret")
        assert {file.stat().st_mode & 0o777 for file in folder.iterdir()} == {0o600}
    finally:
        os.umask(before)
