"""The plugin that vLLM loads: found under its name and the older one, and what it does without torchvision."""

import importlib.util
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tokenprune import vllm_plugin


def test_the_entry_point_names_it():
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["vllm.general_plugins"] == {
        "tokenprune": "tokenprune.vllm_plugin:register"
    }


def test_the_older_name_still_works():
    from tokenprune.weights import vllm_plugin as older

    assert older.register is vllm_plugin.register


@pytest.mark.skipif(importlib.util.find_spec("torchvision") is not None, reason="torchvision is installed")
def test_pixtral_without_torchvision():
    pytest.importorskip("transformers")
    code = (
        "from tokenprune import vllm_plugin\n"
        "vllm_plugin._use_pillow(); vllm_plugin._use_pillow()\n"
        "from transformers.models.pixtral.image_processing_pixtral import _num_image_tokens\n"
        "assert _num_image_tokens((32, 48), (16, 16)) == (2, 3)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_with_torchvision_nothing_is_replaced(monkeypatch):
    name = "transformers.models.pixtral.image_processing_pixtral"
    monkeypatch.setattr(importlib.util, "find_spec", lambda *_: object())
    monkeypatch.delitem(sys.modules, name, raising=False)
    vllm_plugin._use_pillow()
    assert name not in sys.modules


@pytest.mark.vllm
def test_vllm_knows_what_it_registers():
    """In a process of its own, as vLLM does it."""
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("vLLM is not installed in this environment")
    code = (
        "from tokenprune import vllm_plugin\n"
        "from tokenprune.weights.shapes import ARCHITECTURES\n"
        "vllm_plugin.register(); vllm_plugin.register()\n"
        "from vllm import ModelRegistry\n"
        "assert set(ARCHITECTURES.values()) <= set(ModelRegistry.models)\n"
        "llava = ModelRegistry.models['LlavaForConditionalGeneration']\n"
        "assert llava.module_name == 'tokenprune.vision.vllm_llava'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=240)
