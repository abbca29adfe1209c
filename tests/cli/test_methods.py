"""``tokenprune methods`` as a person runs it."""

import re

import pytest

import tokenprune as tp
from tokenprune.cli.methods import methods
from tokenprune.vision import list_vision_methods
from tokenprune.weights.recipes import load_recipes


@pytest.fixture
def run(command):
    return lambda *args: command(*args, text=True)


def test_one_line_each_with_its_paper(run):
    done = run("methods")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    infos = tp.list_pruners()
    recipes = load_recipes()
    vision = list_vision_methods()
    names = [*(i.name for i in infos), *recipes]
    assert len(set(names)) == len(names)
    assert [line.split()[0] for line in lines] == [*names[: len(infos)], *(i.name for i in vision), *recipes]
    for line, info in zip(lines[len(infos) :], vision, strict=False):
        assert line.split(maxsplit=1)[1] == f"vision: {info.line}"
    for line, recipe in zip(lines[len(infos) + len(vision) :], recipes.values(), strict=True):
        assert line.endswith(f"weights: {recipe.summary} [{recipe.paper}]")
    for line, info in zip(lines[: len(infos)], infos, strict=True):
        assert info.summary in line
        assert re.search(r"\[.*" + re.escape(info.paper), line)
        assert line.endswith(f"; needs {', '.join(info.models)}]") == bool(info.models)


@pytest.mark.parametrize("info", tp.list_pruners(), ids=lambda info: info.name)
def test_one_in_full(info, capsys):
    methods(info.name)
    told, errors = capsys.readouterr()
    assert errors == "" and info.summary in told and info.paper in told
    lines = [line.split("  ")[1] for line in told.splitlines() if line.startswith("  ")]
    assert set(info.options) < set(lines)


def test_a_recipe_and_what_is_neither(run):
    flap = run("methods", "flap").stdout
    assert "2312.11983" in flap and "compensation" in flap and "--recipe flap" in flap
    assert "``top_k``" in run("methods", "provence").stdout
    assert run("methods", "holitom").stdout == run("vision", "methods", "holitom").stdout
    wrong = run("methods", "extra")
    assert wrong.returncode == 1 and "extra" in wrong.stderr and "Traceback" not in wrong.stderr


def test_help_has_an_example(run):
    done = run("methods", "--help")
    assert done.returncode == 0
    assert "tokenprune methods" in done.stdout
    assert "Example" in done.stdout


def test_usage_errors(run):
    for arguments in (["methods", "none", "extra"], ["nonesuch"], ["--nonesuch"]):
        done = run(*arguments)
        assert done.returncode == 2
        assert "Traceback" not in done.stderr
        assert arguments[-1] in done.stderr
        assert done.stdout == ""


def test_help_lists_the_commands(run):
    done = run("--help")
    assert done.returncode == 0
    assert all(re.search(rf"^\s*{c}\b", done.stdout, re.M) for c in ("prune", "serve", "models", "methods"))


def test_version(run):
    assert run("--version").stdout.strip() == tp.__version__
