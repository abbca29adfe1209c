"""Names of methods, their options, and methods of other packages."""

import os
import re
import subprocess
import sys

import pytest

import tokenprune as tp
from tokenprune.document import KINDS
from tokenprune.errors import ConfigError, UnknownNameError

SHIPPED = {
    "none",
    "tail",
    "middle-out",
    "random",
    "clean-html",
    "htmlrag-bm25",
    "htmlrag-embed",
    "bm25-passages",
    "bm25-sentences",
    "embed-passages",
    "embed-sentences",
    "provence",
}


def test_shipped_methods():
    infos = {i.name: i for i in tp.list_pruners()}
    assert set(infos) >= SHIPPED
    assert list(infos) == sorted(infos)
    for info in infos.values():
        assert info.kinds
        assert set(info.kinds) <= set(KINDS)
        assert info.summary
        assert "\n" not in info.summary
        assert info.paper
        assert all(re.fullmatch(r"\w+=.+", o) for o in info.options)
    assert infos["htmlrag-embed"].models == ("minilm-l6",)
    assert infos["bm25-sentences"].models == ()
    assert "keep_ratio=None" in infos["bm25-sentences"].options


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_build_by_name(name):
    method = tp.pruner(name)
    info = next(i for i in tp.list_pruners() if i.name == name)
    assert (method.name, method.kinds) == (name, info.kinds)


def test_fewer_kinds():
    assert tp.pruner("bm25-sentences", kinds=["chat", "text"]).kinds == ("chat", "text")
    assert tp.pruner("bm25-sentences", kinds=[]).kinds == ()
    with pytest.raises(ConfigError, match="'clean-html' cannot take pdf, text; it takes html"):
        tp.pruner("clean-html", kinds=["text", "pdf", "html"])


def test_unknown_name():
    with pytest.raises(
        UnknownNameError, match=r"unknown method 'bm25'; known names: .*bm25-sentences.*random"
    ):
        tp.pruner("bm25")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "bm25-sentences",
            {"keep": 1},
            "keep: Unexpected keyword argument; its options: threshold=None, keep_ratio=None, top_k=None",
        ),
        ("none", {"threshold": 1}, "threshold: Unexpected keyword argument; its options: output='same'"),
        (
            "specprefill",
            {"layer": 3},
            "'specprefill' has no layer, these methods have: gemfilter, gemfilter-q$",
        ),
        ("lazyllm", {"threshold": 1.5}, "shares of the layers: 0 to 1, not 1.5"),
        ("lazyllm", {"threshold": -0.1}, "shares of the layers: 0 to 1, not -0.1"),
        ("specprefill", {"threshold": 1.5}, "attention probabilities: 0 to 1, not 1.5"),
        ("random", {"threshold": 1, "top_k": 2}, "only one of"),
        ("random", {"keep_ratio": "much"}, "random"),
        ("random", {"top_k": "few"}, "random"),
        ("htmlrag-bm25", {"max_words": "many"}, "htmlrag-bm25"),
    ],
)
def test_wrong_options(name, options, message):
    """An option that does not exist, or a value of a wrong type, is an error when the method is built."""
    with pytest.raises(ConfigError, match=message):
        tp.pruner(name, **options)


def test_options_reach_the_method():
    first = tp.pruner("random", seed=1)
    second = tp.pruner("random", seed=2)
    text = " ".join(f"Sentence number {n}." for n in range(40))
    outputs = {
        tp.Pipeline([m]).prune("", [text]).documents[0].text
        for m in (first, second, tp.pruner("random", seed=1))
    }
    assert len(outputs) == 2
    assert tp.pruner("htmlrag-bm25", max_words=7).segmenter.max_words == 7


MODULE = """
from tokenprune.registry import named, pruner as build
import tokenprune as tp


@named("acme-first", kinds=("text",), paper="Acme 2024", summary="the first sentence")
def acme_first(count: int = 1) -> tp.Pruner:
    none = build("none", kinds=None)
    from tokenprune.select.simple import TopK
    return tp.Pruner(none.segmenter, none.scorer, TopK(count), uses_query=False)
"""


def install(folder, module=MODULE, target="acme_prune"):
    """A package as pip would leave it: a module and its dist-info with an entry point."""
    (folder / "acme_prune.py").write_text(module)
    info = folder / "acme_prune-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-prune\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[tokenprune.pruners]\nacme = {target}\n")


def run(folder, *args, stdin=""):
    env = {**os.environ, "PYTHONPATH": str(folder)}
    command = [sys.executable, "-m", "tokenprune", *args]
    return subprocess.run(command, input=stdin, env=env, capture_output=True, text=True, timeout=60)


def test_method_of_another_package(tmp_path):
    install(tmp_path)
    listed = run(tmp_path, "methods")
    assert listed.returncode == 0, listed.stderr
    assert re.search(r"^acme-first +the first sentence \[Acme 2024\]$", listed.stdout, re.M)
    done = run(tmp_path, "prune", "--method", "acme-first", "-", stdin="First one. Second one. Third.")
    assert (done.returncode, done.stdout) == (0, "First one. "), done.stderr


def test_method_of_another_package_by_function(tmp_path):
    install(tmp_path, target="acme_prune:acme_first")
    done = run(tmp_path, "prune", "--method", "acme-first", "-", stdin="First one. Second one.")
    assert (done.returncode, done.stdout) == (0, "First one. "), done.stderr


def test_broken_package_is_named_and_the_rest_works(tmp_path):
    """One broken plug-in must not take every other method down with a traceback."""
    install(tmp_path, module="import no_such_module_anywhere\n")
    done = run(tmp_path, "prune", "--method", "none", "-", stdin="One.")
    assert "Traceback" not in done.stderr
    assert "acme" in done.stderr
    assert (done.returncode, done.stdout) in ((0, "One."), (1, ""))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_words": 0}, "max_words must be 1 or more, not 0"),
        ({"max_words": -1}, "max_words must be 1 or more, not -1"),
        ({"max_words": "0"}, "max_words must be 1 or more, not 0"),
        ({"threshold": "nan"}, "threshold must be a finite number, not nan"),
        ({"threshold": float("nan")}, "threshold must be a finite number, not nan"),
        ({"threshold": float("inf")}, "threshold must be a finite number"),
        ({"keep_attributes": ("on click",)}, "keep_attributes holds no attribute name: 'on click'"),
        ({"keep_attributes": ("href", "")}, "keep_attributes holds no attribute name: ''"),
    ],
)
def test_values_that_mean_nothing_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        tp.pruner("htmlrag-bm25", **options)
    tp.pruner("htmlrag-bm25", max_words=1, threshold=-1.5, keep_attributes=("href", "data-x", "xlink:href"))
