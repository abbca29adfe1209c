"""``tokenprune weights`` on a tiny model: a real process once, then the same command in this one."""

import gzip
import io
import json
import re
import sys
from contextlib import redirect_stderr, redirect_stdout
from types import SimpleNamespace

import pytest
import torch

from tokenprune.cli.main import main

WORDS = "the cat sat on a mat and dog ran to his big red hat in old tree by sea we saw two owls fly".split()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny llama with a tokenizer of words, and a text."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    root = tmp_path_factory.mktemp("weights")
    vocabulary = {w: i for i, w in enumerate(["<unk>", "<s>", "</s>", *WORDS])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocabulary), hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=128, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(root / "model")
    tokenizer.save_pretrained(root / "model")
    order = torch.randint(0, len(WORDS), (900,), generator=torch.Generator().manual_seed(1))
    (root / "text.txt").write_text(" ".join(WORDS[i] for i in order))
    (root / "text.jsonl").write_text(json.dumps({"text": (root / "text.txt").read_text()}) + "\n")
    return root


def run(*args, status=0):
    """Run the command in this process: importing torch for each of twenty takes longer than they do."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["tokenprune", "weights", *map(str, args)])
        with pytest.raises(SystemExit) as ended:
            main()
    assert (ended.value.code or 0) == status, err.getvalue()
    if status:
        assert out.getvalue() == "" and err.getvalue().strip()
    return SimpleNamespace(stdout=out.getvalue(), stderr=err.getvalue())


SMALL = ["--windows", "4", "--window", "32"]


def test_prune_inspect_eval_recover(folder):
    model, text, out = folder / "model", folder / "text.txt", folder / "flap"
    done = run(
        "prune",
        model,
        out,
        "--recipe",
        "flap",
        "--sparsity",
        0.3,
        "--calibration",
        text,
        "--text",
        text,
        *SMALL,
    )
    before, after = map(float, re.search(r"perplexity ([\d.]+) -> ([\d.]+)", done.stdout).groups())
    assert before > 1 and after > 1
    card = json.loads((out / "pruning.json").read_text())
    assert card["recipe"]["name"] == "flap" and card["recipe"]["sparsity"] == 0.3
    assert card["perplexity"]["pruned"] == pytest.approx(after, abs=1e-2)
    assert "KV" in run("inspect", out).stdout
    found = json.loads(run("eval", out, "--text", folder / "text.jsonl", "--json").stdout)
    assert found["perplexity"] == pytest.approx(after, rel=1e-3)
    assert found["tokens"] == 896
    run("recover", out, folder / "better", "--text", text, "--steps", 20, "--window", 32, "--lr", 0.01)
    long = run("recover", out, folder / "x", "--text", text, "--window", 129, status=1)
    assert "exceed the 128 positions" in long.stderr
    better = json.loads(run("eval", folder / "better", "--text", text, "--json").stdout)
    assert better["perplexity"] < found["perplexity"] - 0.1
    assert better["parameters"] == found["parameters"]
    told = json.loads((folder / "better" / "pruning.json").read_text())
    assert "perp" in told["recipe"]["recovery"] and "pruned" not in told["perplexity"]


def test_number_formats(folder, tmp_path):
    """Files are as small as the model's own, and the perplexity told is that of what was written."""
    from transformers import AutoModelForCausalLM

    half = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.bfloat16)
    half.save_pretrained(tmp_path / "half")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "half" / name).write_bytes((folder / "model" / name).read_bytes())
    text = folder / "text.txt"
    given = ("--recipe", "flap-refit", "--sparsity", 0.2, "--calibration", text, *SMALL)
    told = run("prune", tmp_path / "half", tmp_path / "out", *given, "--text", text).stdout
    found = json.loads(run("eval", tmp_path / "out", "--text", text, "--json").stdout)
    assert float(told.split()[-1]) == pytest.approx(found["perplexity"], abs=6e-4)
    run("prune", tmp_path / "half", tmp_path / "full", *given, "--dtype", "float32")
    trained = ("--text", text, "--steps", 2, "--window", 32)
    run("recover", tmp_path / "out", tmp_path / "better", *trained)
    run("recover", tmp_path / "out", tmp_path / "wide", *trained, "--dtype", "float32")
    for name, dtype in (
        ("half", torch.bfloat16),
        ("out", torch.bfloat16),
        ("full", torch.float32),
        ("better", torch.bfloat16),
        ("wide", torch.float32),
    ):
        config = json.loads((tmp_path / name / "config.json").read_text())
        assert config["dtype"] == str(dtype).removeprefix("torch.")
        model = AutoModelForCausalLM.from_pretrained(tmp_path / name)
        assert {p.dtype for p in model.parameters()} == {dtype}
    sizes = {name: (tmp_path / name / "model.safetensors").stat().st_size for name in ("half", "out", "full")}
    assert sizes["out"] < sizes["half"] < sizes["full"]
    wrong = run("prune", tmp_path / "half", tmp_path / "x", *given, "--dtype", "int4", status=1)
    assert "unknown dtype 'int4'" in wrong.stderr


def test_parts(folder, tmp_path):
    """All that a recipe can name is listed, with options that a recipe can give."""
    from tokenprune.weights.recipes import ALLOCATIONS, COMPENSATIONS, CRITERIA, RECOVERIES

    told = run("parts").stdout
    for known in (*CRITERIA.values(), ALLOCATIONS, *COMPENSATIONS.values(), RECOVERIES, {"pool": ""}):
        for name in known:
            assert re.search(rf"^  {re.escape(name)} +\S", told, re.M), name
    assert "options: threshold=5.0, limit=0.08" in told and "options: norm='zscore'" in told


def test_the_readmes_recipe(folder, tmp_path):
    from pathlib import Path

    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    body = readme.split("```yaml\n# mine.yaml")[1].split("```")[0].split("\n", 2)[2]
    (tmp_path / "mine.yaml").write_text(body.replace("steps: 100", "steps: 2"))
    run(
        "prune",
        folder / "model",
        tmp_path / "o",
        "--recipe",
        "mine",
        "--recipes",
        tmp_path / "mine.yaml",
        *SMALL,
    )
    assert "lora" in json.loads((tmp_path / "o" / "pruning.json").read_text())["recipe"]["recovery"]


def test_own_recipes_and_own_text(folder, tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text(
        "mine:\n  summary: one of mine\n  paper: none\n  structure: elements\n  criterion: wanda\n"
        "  allocation: {name: owl, limit: 0.1}\n  compensation: {name: obs, damping: 0.05}\n"
        "  recovery: {name: train, train: full, distill: true, steps: 2}\n"
    )
    run("prune", folder / "model", tmp_path / "out", "--recipe", "mine", "--recipes", mine, *SMALL)
    done = run("prune", folder / "model", tmp_path / "mag", "--recipe", "magnitude", *SMALL)
    assert re.search(r"\(100.0%\), 4\d.\d% of these are zeros", done.stdout)
    assert done.stderr == ""  # no bars of others where there is no terminal
    card = json.loads((tmp_path / "out" / "pruning.json").read_text())
    assert card["calibration"]["text"] == "written by the model"
    assert "distilled" in card["recipe"]["recovery"]
    assert all(0.3 < share < 0.7 for share in card["zeros"].values())


def test_pruned_twice(folder, tmp_path):
    """What came before is said, and the model before any pruning teaches."""
    import shutil

    dense, once, twice = tmp_path / "dense", tmp_path / "once", tmp_path / "twice"
    shutil.copytree(folder / "model", dense)
    run("prune", dense, once, "--recipe", "magnitude", *SMALL)
    run("prune", once, twice, "--recipe", "wanda", *SMALL)
    card = json.loads((twice / "pruning.json").read_text())
    assert [(step["name"], step["source"]) for step in card["earlier"]] == [("magnitude", str(dense))]
    assert "It had been pruned before: name magnitude" in (twice / "README.md").read_text()
    assert "before that: name magnitude" in run("inspect", twice).stdout
    ask = ["recover", twice, tmp_path / "better", "--text", folder / "text.txt", "--window", 32, "--steps", 1]
    assert "loads as LlamaForCausalLM" in run(*ask, "--distill").stdout
    said = run("prune", once, once, "--recipe", "wanda", "--overwrite", *SMALL, status=1).stderr
    assert "is the model that is read: choose another folder" in said
    shutil.rmtree(dense)
    ask[2] = tmp_path / "other"
    said = run(*ask, "--distill", status=1).stderr
    assert "the model before pruning" in said and "--dense" in said


def test_wrong_input(folder, tmp_path):
    model, text, out = folder / "model", folder / "text.txt", tmp_path / "out"
    short = tmp_path / "short.txt"
    short.write_text("Few words.")
    base = ["prune", model, out, "--calibration", text]
    for more, says in (
        (["--recipe", "nonesuch"], "unknown recipe 'nonesuch'"),
        (["--recipe", "wanda", "--sparsity", 1.5, *SMALL], "out of range"),
        (["--recipe", "wanda", "--sparsity", "nan", *SMALL], "out of range"),
        (["--recipe", "wanda-2:4", "--sparsity", 0.3, *SMALL], "pattern"),
        (["--recipe", "wanda-2:4", "--sparsity", "nan", *SMALL], "pattern"),
        (["--recipe", "shortgpt", "--sparsity", 0.999, *SMALL], "a sparsity of 0.999 would drop all"),
        (["--recipe", "wanda", *SMALL, "--text", short], "give a longer text\n"),
        (["--recipe", "wanda", "--windows", "40", "--window", "32"], "has 900 tokens"),
        (["--recipe", "stun", *SMALL], "has none"),
        (["--recipe", "flap", "--cost", "time", *SMALL], "unknown cost"),
        (["--recipe", "flap", "--window", "4096"], "positions"),
        (["--recipe", "wanda", "--cost", "flops", *SMALL], "units"),
    ):
        assert says in run(*base, *more, status=1).stderr
        assert not out.exists()
    assert "cannot read text" in run("eval", model, "--text", tmp_path / "none.txt", status=1).stderr
    packed = gzip.compress(b"words " * 5000)
    for broken in (packed[:-20], packed[:30] + b"\xff" * 30 + packed[60:]):
        (tmp_path / "t.txt.gz").write_bytes(broken)
        assert "cannot read text" in run("eval", model, "--text", tmp_path / "t.txt.gz", status=1).stderr
    other = tmp_path / "other.jsonl"
    for row in ('{"content": "no text"}', '{"text": null}', '{"text": ["a"]}'):
        other.write_text(row + "\n")
        assert "no object with a string as 'text'" in run("eval", model, "--text", other, status=1).stderr


def test_damaged_and_unknown_models(folder, tmp_path):
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(folder / "model")
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3, 4] = float("nan")
    model.save_pretrained(tmp_path / "nan")
    GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=40)).save_pretrained(
        tmp_path / "gpt2"
    )
    for name in ("tokenizer.json", "tokenizer_config.json"):
        for to in ("nan", "gpt2"):
            (tmp_path / to / name).write_bytes((folder / "model" / name).read_bytes())
    text = folder / "text.txt"
    for name, says in (("nan", "layers.1.mlp.up_proj.weight holds NaN"), ("gpt2", "'gpt2'")):
        # known before the model writes a text of its own, or its perplexity is measured
        for more in (["--calibration", text], ["--calibration", text, "--text", text], []):
            done = run(
                "prune", tmp_path / name, tmp_path / "out", "--recipe", "wanda", *more, *SMALL, status=1
            )
            assert says in done.stderr
            assert not (tmp_path / "out").exists() and not (tmp_path / "out.pruning").exists()


def test_experts_then_weights(folder, tmp_path):
    from transformers import AutoModelForCausalLM, MixtralConfig, MixtralForCausalLM

    torch.manual_seed(0)
    config = MixtralConfig(
        vocab_size=len(WORDS) + 3, hidden_size=32, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    MixtralForCausalLM(config).save_pretrained(tmp_path / "moe")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "moe" / name).write_bytes((folder / "model" / name).read_bytes())
    run(
        "prune",
        tmp_path / "moe",
        tmp_path / "out",
        "--recipe",
        "stun",
        "--calibration",
        folder / "text.txt",
        *SMALL,
    )
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    for layer in model.model.layers:
        assert layer.mlp.experts.down_proj.shape[0] == 3 == layer.mlp.gate.weight.shape[0]
        assert float((layer.mlp.experts.down_proj == 0).float().mean()) == pytest.approx(0.4, abs=0.01)
    assert (
        json.loads((tmp_path / "out" / "pruning.json").read_text())["recipe"]["then"] == "wanda sparsity 0.4"
    )


def test_as_a_process(folder, tmp_path, command):
    args = ["prune", folder / "model", tmp_path / "out", "--recipe", "shortgpt", "--sparsity", "0.33"]
    args += ["--calibration", folder / "text.txt", *SMALL]
    done = command("weights", *args, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "out" / "config.json").read_text())["num_hidden_layers"] == 2
    again = command("weights", *args, text=True)
    assert again.returncode == 1 and "exists" in again.stderr and "Traceback" not in again.stderr


def test_costs_of_latency(folder, tmp_path, monkeypatch):
    """Measured once, written into the card, and taken from there."""
    clock = "tokenprune.weights.latency._wall_clock"
    monkeypatch.setattr(clock, lambda part, width, work: 1e-3 * width)
    given = ("--recipe", "flap", "--sparsity", "0.2", "--cost", "latency")
    given = (*given, "--calibration", folder / "text.txt", *SMALL)
    run("prune", folder / "model", tmp_path / "a", *given)
    monkeypatch.setattr(clock, lambda part, width, work: pytest.fail("measured again"))
    run("prune", folder / "model", tmp_path / "b", *given, "--latency-from", tmp_path / "a")
    for name in ("model.safetensors", "pruning.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    done = run("prune", folder / "model", tmp_path / "c", *given, "--latency-from", folder, status=1)
    assert "pruning.json" in done.stderr
    done = run(
        "prune", folder / "model", tmp_path / "c", *given[:4], "--latency-from", tmp_path / "a", status=1
    )
    assert "--cost latency" in done.stderr
