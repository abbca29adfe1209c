"""The exported folder: whole or absent, checked, with a card."""

import json
import os
import resource
import shutil

import pytest
import torch
from pruned_models import VOCABULARY, biases, finer, flap, some_ids, tiny, way
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from tokenprune import folders
from tokenprune.errors import ModelError
from tokenprune.weights import export as export_module
from tokenprune.weights.card import read_card
from tokenprune.weights.check import check
from tokenprune.weights.export import export
from tokenprune.weights.kept import Kept


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def tokenizer():
    words = {f"w{i}": i for i in range(VOCABULARY)}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="w0")), eos_token="w2", pad_token="w0"
    )


@pytest.mark.parametrize("name", ["flap", "finer-biased", "narrow", "shallow"])
def test_export(name, tmp_path):
    dense = tiny()
    dense.generation_config.temperature, dense.generation_config.do_sample = 0.5, True
    kept, added = way(dense, name)
    source = tmp_path / "org" / "base"
    source.mkdir(parents=True)
    (source / "LICENSE").write_text("do what you like")
    folder = export(
        dense,
        kept,
        tmp_path / "new" / "small",
        biases=added,
        tokenizer=tokenizer(),
        source=source,
        licence="Apache-2.0",
        recipe={"name": name, "sparsity": 0.2},
        calibration={"text": "wikitext2", "tokens": 65536},
        perplexity={"dense": 9.42, "pruned": 11.5},
    )
    assert folder == tmp_path / "new" / "small"
    assert names_in(folder.parent) == ["small"]
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"} <= set(
        names_in(folder)
    )
    assert (folder / "LICENSE").read_text() == "do what you like"
    assert json.loads((folder / "generation_config.json").read_text())["temperature"] == 0.5
    assert len(AutoTokenizer.from_pretrained(folder)) == VOCABULARY
    assert check(folder, dense, biases=added).same_choice == 1
    card = read_card(folder)
    for mine, theirs in zip(card.kept.layers, kept.layers, strict=True):
        assert (mine.attention, mine.mlp) == (theirs.attention, theirs.mlp)
        assert mine.kv_heads == theirs.kv_heads and mine.channels == theirs.channels
    assert card.pruned.parameters == kept.params(dense.config, added)
    assert card.dense.parameters == dense.num_parameters()
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    assert type(loaded).__name__ == card.architecture
    assert loaded.num_parameters() == card.pruned.parameters
    readme = (folder / "README.md").read_text()
    assert "license: apache-2.0" in readme and "wikitext2" in readme and "pruned 11.500" in readme
    assert f"{card.pruned.parameters:,}" in readme and str(tmp_path) not in readme
    assert ("import tokenprune.weights" in readme) == card.architecture.startswith("TokenPrune")


def test_masked_weights_keep_their_zeros(tmp_path):
    dense = tiny()
    with torch.no_grad():
        weight = dense.model.layers[1].mlp.up_proj.weight
        weight[:, ::2] = 0
    card = read_card(export(dense, Kept.all_of(dense.config), tmp_path / "out"))
    assert list(card.zeros) == ["1"]
    matrices = [p for p in dense.model.layers[1].parameters() if p.dim() == 2]
    assert card.zeros["1"] == pytest.approx(weight.numel() / 2 / sum(m.numel() for m in matrices), abs=1e-4)
    assert card.architecture == "LlamaForCausalLM"


def test_check_finds_what_is_wrong(tmp_path):
    dense, added = tiny(), biases("0.o_bias")
    folder = export(dense, flap(), tmp_path / "out", biases=added)
    assert check(folder, dense, flap(), added, ids=some_ids(1, 5)).tokens == 5
    assert check(folder, dense).largest < 1e-4
    with pytest.raises(ModelError, match="does not compute"):
        check(folder, dense, biases=biases("0.o_bias", seed=9))
    with pytest.raises(ModelError, match="does not compute"):
        check(folder, tiny(seed=5), biases=added)
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.2.self_attn.o_proj.weight"][3] += 0.05
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="does not compute"):
        check(folder, dense, biases=added)
    (folder / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(ModelError, match="cannot load"):
        check(folder, dense, biases=added)
    with pytest.raises(ModelError, match=r"no pruning\.json"):
        check(tmp_path, dense)


def test_nothing_is_overwritten_unasked(tmp_path):
    dense = tiny()
    folder = tmp_path / "out"
    folder.mkdir()  # empty: as good as none
    export(dense, flap(), folder)
    with pytest.raises(ModelError, match="exists"):
        export(dense, finer(), folder)
    assert len(read_card(folder).kept.layers[0].kv_heads) == 3
    export(dense, finer(), folder, overwrite=True)
    assert read_card(folder).kept.layers[0].kv_heads == ()
    assert names_in(tmp_path) == ["out"]
    (folder / "notes.txt").write_text("what I found")
    with pytest.raises(ModelError, match=r"holds notes.txt beside the pruned model: move that first"):
        export(dense, flap(), folder, overwrite=True)
    assert (folder / "notes.txt").exists() and read_card(folder).kept.layers[0].kv_heads == ()
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    with pytest.raises(ModelError, match="is no pruned model"):
        export(dense, finer(), mine, overwrite=True)
    assert (mine / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_no_numbers_no_export(value, tmp_path):
    dense = tiny()
    with torch.no_grad():
        dense.model.layers[2].self_attn.v_proj.weight[0, 0] = value
    with pytest.raises(ModelError, match=r"model\.layers\.2\.self_attn\.v_proj\.weight holds NaN"):
        export(dense, Kept.all_of(dense.config), tmp_path / "out")
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("old", [False, True])
def test_the_disk_is_full(old, tmp_path):
    """A limit on the size of files stands for the disk: writing fails with a real OSError in the middle."""
    dense = tiny()
    folder = tmp_path / "out"
    if old:
        export(dense, finer(), folder)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(ModelError, match=r"cannot write .*free some space"):
            export(dense, flap(), folder, overwrite=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names_in(tmp_path) == (["out"] if old else [])
    if old:
        check(folder, dense)
        assert read_card(folder).kept.layers[0].kv_heads == ()


@pytest.mark.parametrize(("module", "where"), [(export_module, "write_card"), (folders, "_sync")])
def test_interrupted(module, where, tmp_path, monkeypatch):
    def stop(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, where, stop)
    with pytest.raises(KeyboardInterrupt):
        export(tiny(), flap(), tmp_path / "out")
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("old", [False, True])
def test_killed(old, tmp_path):
    """A process that dies at the last moment before the rename leaves the old folder, or none."""
    dense = tiny()
    folder = tmp_path / "out"
    if old:
        export(dense, finer(), folder)
    child = os.fork()
    if not child:
        folders._into_place = lambda *args: os._exit(9)
        torch.set_num_threads(1)
        try:
            export(dense, flap(), folder, overwrite=True)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert folder.exists() == old
    if old:
        check(folder, dense)
    leftovers = [path for path in tmp_path.iterdir() if path != folder]
    assert all(path.name.startswith(".out-partial-") for path in leftovers)
    for path in leftovers:
        shutil.rmtree(path)
    export(dense, flap(), folder, overwrite=True)
    check(folder, dense)


def test_a_place_that_cannot_be(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ModelError, match="exists"):
        export(tiny(), flap(), tmp_path / "file")
    with pytest.raises(ModelError, match="cannot write to"):
        export(tiny(), flap(), tmp_path / "file" / "below")
    assert (tmp_path / "file").read_text() == "x"


def test_a_broken_card(tmp_path):
    (tmp_path / "pruning.json").write_text("{}")
    with pytest.raises(ModelError, match="cannot read"):
        read_card(tmp_path)
