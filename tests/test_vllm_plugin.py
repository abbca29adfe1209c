"""The plugin that vLLM loads: found under its name and the older one, and what it does without torchvision."""

import importlib.util
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
def test_pixtral_without_torchvision(warm_python):
    code = (
        "import sys\n"
        "from tokenprune import vllm_plugin\n"
        "assert 'transformers.models.pixtral.image_processing_pixtral' not in sys.modules\n"
        "vllm_plugin._use_pillow(); vllm_plugin._use_pillow()\n"
        "from transformers.models.pixtral.image_processing_pixtral import _num_image_tokens\n"
        "assert _num_image_tokens((32, 48), (16, 16)) == (2, 3)\n"
    )
    done = warm_python.run("python", "-c", code, text=True)
    assert done.returncode == 0, done.stderr


def test_with_torchvision_nothing_is_replaced(monkeypatch):
    name = "transformers.models.pixtral.image_processing_pixtral"
    monkeypatch.setattr(importlib.util, "find_spec", lambda *_: object())
    monkeypatch.delitem(sys.modules, name, raising=False)
    vllm_plugin._use_pillow()
    assert name not in sys.modules


@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
def test_workers_that_sleep_sooner(warm_python):
    code = (
        "import inspect, os\n"
        "from tokenprune.vllm_plugin import SPIN, _spin_less\n"
        "from vllm.distributed.device_communicators.shm_broadcast import SpinCondition\n"
        "seconds = lambda: inspect.signature(SpinCondition).parameters['busy_loop_s'].default\n"
        "usual = seconds()\n"
        "os.environ.pop(SPIN, None); _spin_less(); assert seconds() == usual\n"
        "os.environ[SPIN] = '0.01'; _spin_less(); _spin_less(); assert seconds() == 0.01\n"
        "for bad in ('soon', '-1', 'nan', 'inf'):\n"
        "    os.environ[SPIN] = bad\n"
        "    try:\n"
        "        _spin_less()\n"
        "    except ValueError as error:\n"
        "        assert SPIN in str(error)\n"
        "    else:\n"
        "        raise AssertionError(bad)\n"
        "assert seconds() == 0.01\n"
    )
    done = warm_python.run("python", "-c", code, text=True)
    assert done.returncode == 0, done.stderr
