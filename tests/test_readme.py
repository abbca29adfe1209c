"""The README's snippets are run as a reader would run them."""

import re
import shlex
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"<!-- test: (\w+) -->\n```\w+\n(.*?)```", README, re.S)

pytestmark = pytest.mark.models


def snippets(kind: str) -> list[str]:
    found = [code for name, code in SNIPPETS if name == kind]
    assert found, f"the README has no snippet marked {kind}"
    return found


def said(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def run(warm_python: Any) -> Callable[..., str]:
    """Run a line of a shell; what it says."""
    return lambda line, cwd=ROOT: said(warm_python.run(*shlex.split(line), cwd=cwd, text=True))


@pytest.fixture(scope="module")
def python(warm_python: Any) -> Callable[[str], str]:
    """Run a snippet, once; what it says."""
    return cache(lambda code: said(warm_python.run("python", "-c", code, cwd=ROOT, text=True)))


@pytest.mark.parametrize("code", snippets("python"))
def test_python_snippet_runs(python: Callable[[str], str], code: str) -> None:
    assert python(code).strip()


def test_rag_snippet_keeps_the_answer(python: Callable[[str], str]) -> None:
    first = python(next(c for c in snippets("python") if "Eiffel" in c)).splitlines()[0]
    assert "It was finished in 1889." in first
    assert "repainted" not in first


def test_output_snippet(python: Callable[[str], str]) -> None:
    code = next(c for c in snippets("python") if 'output="markdown"' in c)
    assert python(code) == "# Plans\n\n| Plan | Price |\n|---|---|\n| Basic | 5 |\n| Team | 20 |\n"


def test_measuring_snippet_shows_what_pruning_keeps(python: Callable[[str], str]) -> None:
    code = next(c for c in snippets("python") if "answer kept" in c)
    rows = {line.split()[0]: line for line in python(code).splitlines()}
    assert rows["hybrid"].endswith("True")
    assert rows["none"].endswith("False")


def test_own_method_snippet(python: Callable[[str], str]) -> None:
    code = next(c for c in snippets("python") if "class Longest" in c)
    assert python(code).strip() == "This one is longer."


@pytest.mark.parametrize("line", [line for code in snippets("bash") for line in code.strip().splitlines()])
def test_command_line_runs(run: Callable[..., str], line: str) -> None:
    assert run(line).strip()


def test_measuring_commands_run_one_after_the_other(run: Callable[..., str], tmp_path: Path) -> None:
    (code,) = snippets("measure")
    out = [run(line, tmp_path) for line in code.strip().splitlines()]
    assert "recommended: bm25-sentences" in out[0]
    assert (tmp_path / "report/report.html").exists() and (tmp_path / "log.jsonl").exists()
    assert "USD" in out[2]


def test_configuration_is_valid(tmp_path: Path) -> None:
    from tokenprune.config import load_config

    (code,) = snippets("yaml")
    file = tmp_path / "tokenprune.yaml"
    file.write_text(code)
    config = load_config(str(file))
    assert set(config.pipelines) == set(yaml.safe_load(code)["pipelines"])
    assert config.build("lexical").pruners[1].kinds == ("text", "chat")


def test_serve_and_client_snippets(warm_python: Any, python: Callable[[str], str]) -> None:
    (serve,), (client,) = snippets("serve"), snippets("client")
    process = warm_python.start(*shlex.split(serve.replace("8080", "0")), cwd=ROOT)
    try:
        out = python(client.replace("http://localhost:8080", process.url(warmed_up=True)))
    finally:
        process.interrupt()
    assert "uuid4" in out
    before, after = map(int, re.search(r"(\d+) -> (\d+)", out).groups())
    assert after <= 350 < before
    assert "pruned" in out


def test_every_method_of_the_table_exists() -> None:
    import tokenprune as tp

    table = README.split("## Methods")[1].split("A method is four parts")[0]
    named = set(re.findall(r"`([a-z][\w-]+)`", table)) - {"tokenprune"}
    assert named == {info.name for info in tp.list_pruners()}
