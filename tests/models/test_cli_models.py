import os
import subprocess
import sys
from dataclasses import replace

from typer.testing import CliRunner

from tokenprune.cli.models import app
from tokenprune.errors import ModelError, UnknownNameError
from tokenprune.models.catalog import CATALOG, SHIPPED

runner = CliRunner()


def test_list_shows_every_model(local_index) -> None:
    result = runner.invoke(app, ["list"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    for name, model in {**CATALOG, **SHIPPED}.items():
        assert name in result.stdout
        assert model.licence in result.stdout


def test_path_prints_the_folder_only(local_index, monkeypatch) -> None:
    local_index.register(monkeypatch, local_index.model)
    result = runner.invoke(app, ["path", "tiny"])
    assert result.exit_code == 0
    assert result.stdout == f"{local_index.cache / 'models' / 'tiny'}\n"
    assert result.stderr == ""


def test_path_errors_reach_the_caller(local_index, monkeypatch) -> None:
    result = runner.invoke(app, ["path", "nope"])
    assert isinstance(result.exception, UnknownNameError)
    local_index.register(monkeypatch, replace(local_index.model, sha256="0" * 64))
    assert isinstance(runner.invoke(app, ["path", "tiny"]).exception, ModelError)


def test_help_has_an_example_and_loads_nothing_heavy() -> None:
    for args in (["--help"], ["list", "--help"], ["path", "--help"]):
        assert "Example" in runner.invoke(app, args).stdout
    code = "import sys, tokenprune.cli.models; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ})
