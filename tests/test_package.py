"""The package as a whole: names, errors, and what importing it costs."""

import subprocess
import sys
from pathlib import Path

import pytest

import tokenprune as tp
from tokenprune import errors

HEAVY = {
    "torch",
    "transformers",
    "sentence_transformers",
    "fastapi",
    "aiohttp",
    "uvicorn",
    "vllm",
    "ray",
    "onnxruntime",
    "openai",
}
NOT_FOR_IMPORT = HEAVY | {"numpy", "lxml", "bs4", "tokenizers", "pydantic", "typer"}


def modules_after(code):
    script = f"{code}\nimport sys\nprint('\\n'.join({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    return set(done.stdout.split())


def test_import_is_light():
    loaded = modules_after("import tokenprune")
    assert "tokenprune" in loaded
    assert not loaded & NOT_FOR_IMPORT


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["prune", "--help"],
        ["serve", "--help"],
        ["models", "--help"],
        ["bench", "--help"],
        ["estimate", "--help"],
        ["--version"],
    ],
)
def test_help_is_light(arguments):
    code = f"""
import contextlib, io, sys
sys.argv = ["tokenprune", *{arguments!r}]
from tokenprune.cli.main import main
with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
    main()
assert out.getvalue()
"""
    assert not modules_after(code) & (HEAVY | {"numpy", "lxml", "bs4", "tokenizers"})


def test_pruning_without_models_loads_no_torch():
    loaded = modules_after(
        "import tokenprune as tp\n"
        "tp.list_pruners()\n"
        "tp.Pipeline(['htmlrag-bm25', 'bm25-sentences']).prune('q', "
        "['<p>a b.</p><p>c d.</p>', 'One q. Two.'])"
    )
    assert "lxml" in loaded
    assert not loaded & HEAVY


def test_public_names():
    assert set(tp.__all__) <= set(dir(tp))
    for name in tp.__all__:
        assert getattr(tp, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonesuch'"):
        _ = tp.nonesuch
    assert tp.__version__.count(".") == 2


def test_errors_share_one_base():
    found = [e for e in vars(errors).values() if isinstance(e, type) and issubclass(e, Exception)]
    assert len(found) >= 8
    assert all(issubclass(e, tp.TokenPruneError) for e in found)


def test_error_messages():
    assert str(errors.UnknownNameError("method", "x", ["b", "a"])) == "unknown method 'x'; known names: a, b"
    assert str(errors.UnknownNameError("method", "x", [])) == "unknown method 'x'; known names: (none)"
    missing = str(errors.MissingExtraError("tokenprune serve", "server", "fastapi"))
    assert (
        missing == "tokenprune serve needs the module 'fastapi': install this project with the extra [server]"
    )


def test_data_is_in_the_wheel():
    """Every file that git tracks below the package, as the build backend lists what it packs."""
    wheel = pytest.importorskip("hatchling.builders.wheel")
    root = Path(__file__).parents[1]
    packed = {f.distribution_path for f in wheel.WheelBuilder(str(root)).recurse_included_files()}
    data = [p for p in (root / "tokenprune" / "data").rglob("*") if p.is_file()]
    assert len(data) > 10
    assert {p.relative_to(root).as_posix() for p in data} <= packed
    assert "tokenprune/data/workloads/README.md" in packed
