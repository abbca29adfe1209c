"""Real vLLM on CPU: greedy tokens of pruned checkpoints are those of transformers, in float32."""

import importlib.util
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
from pruned_models import layer, some_ids, tiny, way
from transformers import AutoModelForCausalLM

from tokenprune.weights.kept import Kept
from tokenprune.weights.materialise import materialise
from tokenprune.weights.shapes import ARCHITECTURES

ROOT = Path(__file__).parents[2]


def in_vllm(folders, prompts, tokens):
    """What one vLLM process says, see vllm_greedy.py; it finds the plugin as any vLLM does, by entry point."""
    if importlib.util.find_spec("vllm") is None:
        if os.environ.get("TOKENPRUNE_REQUIRE_VLLM") == "1":
            pytest.fail("vLLM is not installed in this environment")
        pytest.skip("vLLM is not installed in this environment")
    request = {"folders": [str(folder) for folder in folders], "prompts": prompts, "tokens": tokens}
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "helpers" / "vllm_greedy.py")],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)


def in_transformers(model, prompt, tokens):
    """Greedy ids after a prompt [tokens], and their log-probabilities."""
    out = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=tokens,
        do_sample=False,
        eos_token_id=None,
        return_dict_in_generate=True,
        output_logits=True,
    )
    ids = out.sequences[0, len(prompt) :].tolist()
    steps = zip(out.logits, ids, strict=True)
    return ids, [float(torch.log_softmax(logits[0].float(), -1)[token]) for logits, token in steps]


def assert_same(answers, models, prompts, tokens):
    for folder, model in models.items():
        for prompt, answer in zip(prompts, answers[str(folder)], strict=True):
            ids, chances = in_transformers(model, prompt, tokens)
            assert answer["ids"] == ids, folder.name
            assert answer["logprobs"] == pytest.approx(chances, abs=2e-3), folder.name


def saved(tmp_path, cases):
    models = {}
    for family, name in cases:
        dense = tiny(family)
        small = materialise(dense, *way(dense, name))
        folder = tmp_path / f"{family}-{name}"
        small.save_pretrained(folder)
        models[folder] = AutoModelForCausalLM.from_pretrained(folder).eval()
    return models


PROMPTS = [some_ids(n, seed=n).tolist() for n in (1, 7, 50)]


@pytest.fixture(scope="module")
def llamas(tmp_path_factory):
    """Pruned models by folder, and what vLLM says."""
    cases = [("llama", "flap"), ("llama", "finer-biased"), ("llama", "narrow-biased")]
    models = saved(tmp_path_factory.mktemp("llamas"), cases)
    return models, in_vllm(list(models), PROMPTS, 12)


@pytest.mark.vllm
@pytest.mark.timeout(300)
def test_pruned_llama(llamas):
    models, told = llamas
    assert_same(told["answers"], models, PROMPTS, 12)


@pytest.mark.vllm
@pytest.mark.timeout(300)
def test_vllm_knows_what_the_plugin_registers(llamas):
    modules = llamas[1]["modules"]
    assert set(ARCHITECTURES.values()) <= set(modules)
    for name in ("LlavaForConditionalGeneration", "LlavaOnevisionForConditionalGeneration"):
        assert modules[name] == "tokenprune.vision.vllm_llava"


@pytest.mark.slow
@pytest.mark.vllm
@pytest.mark.timeout(300)
def test_pruned_others(tmp_path):
    families = ("mistral", "qwen2", "qwen3")
    cases = [
        (family, name) for family in families for name in ("flap", "finer-biased", "few-heads", "shallow")
    ]
    models = saved(tmp_path, cases)
    assert_same(in_vllm(list(models), PROMPTS, 12)["answers"], models, PROMPTS, 12)


@pytest.mark.slow
@pytest.mark.vllm
@pytest.mark.models
@pytest.mark.timeout(300)
def test_pruned_smollm2(tmp_path):
    """FLAP-like (widths and KV groups by layer, biases) and FinerCut-like (dropped sublayers, the first too)."""
    from transformers import AutoTokenizer

    from tokenprune.models.catalog import model_path

    path = model_path("smollm2-135m")
    dense = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    generator = torch.Generator().manual_seed(0)
    wide, widths = dense.config.intermediate_size, (1536, 1400, 1536, 1304)
    by_layer = Kept(
        tuple(
            layer((0, 2) if i % 7 == 3 else (0, 1, 2), range(wide - widths[i % 4], wide)) for i in range(30)
        )
    )
    added = {f"layers.{i}.o_bias": torch.randn(576, generator=generator) * 0.01 for i in range(3, 30, 7)}
    added |= {f"layers.{i}.down_bias": torch.randn(576, generator=generator) * 0.01 for i in range(1, 30, 4)}
    attention, ffn = {0, 12, 19, 25}, {14, 21}
    sublayers = Kept(
        tuple(layer(() if i in attention else range(3), () if i in ffn else range(wide)) for i in range(30))
    )
    models = {}
    for name, kept, biases in (("flap", by_layer, added), ("finercut", sublayers, {})):
        models[tmp_path / name] = materialise(dense, kept, biases)
        models[tmp_path / name].save_pretrained(tmp_path / name)
    tokenizer = AutoTokenizer.from_pretrained(path)
    texts = ["The lighthouse on the northern cape was", "def fibonacci(n):\n    ", "Once upon a time " * 20]
    prompts = [tokenizer(text)["input_ids"] for text in texts]
    assert_same(in_vllm(list(models), prompts, 40)["answers"], models, prompts, 40)


def test_the_plugin_is_an_entry_point():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    module, _, name = project["project"]["entry-points"]["vllm.general_plugins"]["tokenprune"].partition(":")
    code = f"from {module} import {name}; import sys; assert not {{'vllm', 'torch', 'transformers'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
