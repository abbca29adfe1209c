"""What the command lines of benchmarks say of themselves."""

from importlib import import_module

import pytest


@pytest.mark.parametrize(
    "name", ["html", "kv_peers", "needle", "provence", "rag_peers", "rag_quality", "tokens", "vision"]
)
def test_help_can_be_written(name):
    text = import_module(f"benchmarks.{name}.run").parser().format_help()
    assert "--methods" in text
    assert "%%" not in text
