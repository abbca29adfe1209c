"""Runs that were stopped go on, and give what an uninterrupted one gives."""

import copy
import os
import signal
import sys

import pytest
import torch
from pruned_models import tiny
from stopper import Stop, Stopper

from tokenprune.errors import RecipeError
from tokenprune.weights.journal import Journal, mark_of, read_state, write_state
from tokenprune.weights.prune import prune
from tokenprune.weights.recipes import Recipe, get_recipe
from tokenprune.weights.run import Calibration, prune_to


def test_journal(tmp_path):
    value = {"weights": torch.randn(3), "kept": [{"a": (1, 2), "b": None}], "left": 3}
    journal = Journal(tmp_path / "j", "mine")
    assert journal.get("a") is None
    journal.part("in").put("a", value)
    again = Journal(tmp_path / "j", "mine").part("in").get("a")
    assert torch.equal(again.pop("weights"), value.pop("weights"))
    assert again == value
    assert journal.once("b", lambda: [1]) == [1]
    assert journal.once("b", lambda: pytest.fail("made twice")) == [1]
    journal.forget("b")
    assert journal.get("b") is None
    with pytest.raises(RecipeError, match="another run"):
        Journal(tmp_path / "j", "yours")
    journal.path("a").write_bytes(b"nonsense")
    with pytest.raises(RecipeError, match="damaged"):
        journal.get("a")
    journal.close()
    assert not (tmp_path / "j").exists()
    nowhere = Journal()
    nowhere.put("a", 1)
    assert nowhere.get("a") is None and nowhere.path("a") is None


def test_states_land_whole(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(RecipeError, match="cannot write the checkpoint"):
        write_state(tmp_path / "file" / "a.pt", "m", {})
    write_state(tmp_path / "a.pt", "m", {"x": 1})
    assert read_state(tmp_path / "a.pt", "m") == {"x": 1}
    assert [p.name for p in tmp_path.iterdir() if p.name.endswith(".part")] == []


def test_marks_tell_runs_apart(tiny_lm, windows):
    model = tiny_lm()
    mark = mark_of(model, windows, ["a"])
    assert mark == mark_of(copy.deepcopy(model), windows.clone(), ["a"])
    assert mark != mark_of(model, windows, ["b"])
    assert mark != mark_of(model, windows[:5], ["a"])
    with torch.no_grad():
        model.model.layers[2].mlp.up_proj.weight[0, 0] += 1e-6
    assert mark != mark_of(model, windows, ["a"])


def recipe(name, **changes):
    return Recipe.model_validate(get_recipe(name).model_dump() | changes)


ROUNDS = recipe(
    "adapt-pruner", rounds=3, recovery={"name": "train", "train": "perp", "steps": 30, "lr": 0.001}
)


@pytest.mark.parametrize(
    ("how", "stops"),
    [
        (get_recipe("wanda"), (3,)),
        (recipe("wanda-owl", propagate="dense"), (4, 2)),
        (get_recipe("sparsegpt"), (2, 1)),
        (get_recipe("gblm"), (8,)),
        (get_recipe("flap"), (2,)),
        (get_recipe("flap-refit"), (3, 2, 1)),
        (recipe("llm-pruner", spared=[0, 0]), (8,)),
        (ROUNDS, (3, 6 + 4 + 29, 20)),
        (get_recipe("shortgpt"), (2,)),
        (get_recipe("finercut"), (2,)),
        (get_recipe("stun"), (2,)),
    ],
    ids=lambda x: x.summary[:20] if isinstance(x, Recipe) else None,
)
def test_a_stopped_run_goes_on_to_the_same_weights(tiny_lm, windows, tmp_path, how, stops):
    def model():
        return tiny_lm("mixtral" if how.structure == "experts" else "llama", num_hidden_layers=4)

    share = 1 / 3 if how.structure == "experts" else 0.3
    whole = model()
    wanted = prune(whole, windows, how, share)
    for stop in stops:
        with pytest.raises(Stop):
            prune(model(), windows, how, share, reporter=Stopper(stop), journal=Journal(tmp_path / "j", "m"))
    stopped, reporter = model(), Stopper()
    found = prune(stopped, windows, how, share, reporter=reporter, journal=Journal(tmp_path / "j", "m"))
    assert found.kept == wanted.kept
    assert found.biases.keys() == wanted.biases.keys()
    assert all(torch.equal(found.biases[k], v) for k, v in wanted.biases.items())
    for a, b in zip(whole.parameters(), stopped.parameters(), strict=True):
        assert torch.equal(a, b)


def test_finished_layers_are_not_pruned_again(tiny_lm, windows, tmp_path, monkeypatch):
    from tokenprune.weights.elements import ElementPruning

    journal = Journal(tmp_path / "j", "m")
    with pytest.raises(Stop):
        prune(tiny_lm(), windows, get_recipe("wanda"), reporter=Stopper(2), journal=journal)
    calls = []
    real = ElementPruning.prune
    monkeypatch.setattr(ElementPruning, "prune", lambda *a: calls.append(1) or real(*a))
    prune(tiny_lm(), windows, get_recipe("wanda"), journal=journal)
    assert len(calls) == 7  # of the last of three layers alone; the second was kept before it was counted


@pytest.fixture
def named(tmp_path):
    """A tiny model in a folder, and its text."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(97)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    folder = tmp_path / "dense"
    model = tiny()
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="w2", pad_token="w0").save_pretrained(folder)
    text = tmp_path / "text.txt"
    text.write_text(" ".join(f"w{i * 7 % 90 + 3}" for i in range(600)))
    return folder, text


def run(named, out, how=None, reporter=None, sparsity=None):
    folder, text = named
    more = {} if reporter is None else {"reporter": reporter}
    return prune_to(
        str(folder),
        out,
        "flap-refit",
        how or get_recipe("flap-refit"),
        Calibration(text, 4, 32),
        sparsity,
        **more,
    )


def test_the_folder_is_the_same_to_the_byte(named, tmp_path):
    run(named, tmp_path / "whole")
    with pytest.raises(Stop):
        run(named, tmp_path / "stopped", reporter=Stopper(4 + 2))
    kept = tmp_path / "stopped.pruning"
    assert (kept / "prune.round-0.refit-0.pt").exists() and not (tmp_path / "stopped").exists()
    with pytest.raises(RecipeError, match=r"stopped\.pruning is the checkpoint of another run"):
        run(named, tmp_path / "stopped", sparsity=0.4)
    with pytest.raises(RecipeError, match="another run"):
        other = named[1].with_name("other.txt")
        other.write_text(named[1].read_text().replace("w3", "w4"))
        run((named[0], other), tmp_path / "stopped")
    run(named, tmp_path / "stopped")
    assert not kept.exists()
    for name in ("model.safetensors", "config.json", "pruning.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "stopped" / name).read_bytes()


def test_recovery_at_the_end_goes_on(named, tmp_path):
    how = recipe("perp", recovery={"name": "train", "train": "perp", "steps": 40})
    run(named, tmp_path / "whole", how)
    with pytest.raises(Stop):
        run(named, tmp_path / "stopped", how, Stopper(4 + 30))
    assert (tmp_path / "stopped.pruning" / "recovery.pt").exists()
    reporter = Stopper()
    run(named, tmp_path / "stopped", how, reporter)
    assert reporter.done <= 4 + 15  # the layers, and the steps behind the checkpoint of step 25
    assert (tmp_path / "whole/model.safetensors").read_bytes() == (
        tmp_path / "stopped/model.safetensors"
    ).read_bytes()


KILLED = """
import os, signal, sys
sys.path[:0] = sys.argv[1].split(os.pathsep)
from pathlib import Path
from stopper import Stopper
from tokenprune.weights.recipes import get_recipe
from tokenprune.weights.run import Calibration, prune_to
class Killer(Stopper):
    def stop(self):
        os.kill(os.getpid(), signal.SIGKILL)
folder, text, out = sys.argv[2:]
prune_to(folder, Path(out), "flap-refit", get_recipe("flap-refit"), Calibration(Path(text), 4, 32), reporter=Killer(2))
"""


def test_a_killed_process(named, tmp_path, warm_python):
    argv = ["python", "-c", KILLED, os.pathsep.join(sys.path), *named, tmp_path / "killed"]
    done = warm_python.run(*argv, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert (tmp_path / "killed.pruning" / "prune.round-0.scores-0.pt").exists()
    run(named, tmp_path / "killed")
    run(named, tmp_path / "whole")
    assert (tmp_path / "whole/model.safetensors").read_bytes() == (
        tmp_path / "killed/model.safetensors"
    ).read_bytes()


def test_a_run_that_cannot_work_leaves_nothing(named, tmp_path):
    """So that the next one, with other settings, is not refused; but what a full disk stopped is kept."""
    with pytest.raises(RecipeError, match="cannot go"):
        run(named, tmp_path / "out", sparsity=0.97)
    assert not (tmp_path / "out.pruning").exists()
    with pytest.raises(RecipeError, match="out of range"):
        run(named, tmp_path / "out", sparsity=1.5)
    assert not (tmp_path / "out.pruning").exists()
    with pytest.raises(Stop):
        run(named, tmp_path / "out", reporter=Stopper(2))
    (tmp_path / "out.pruning" / "prune.round-0.scores-1.pt").write_bytes(b"x")
    with pytest.raises(RecipeError, match="damaged"):
        run(named, tmp_path / "out")
    assert (tmp_path / "out.pruning").exists()
