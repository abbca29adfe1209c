"""``tokenprune prune`` as a person runs it: a real process, files and pipes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tokenprune.tokens import get_counter

COMMAND = str(Path(sys.executable).with_name("tokenprune"))
TEXT = "Cats sleep all day. A needle is lost in the hay. Dogs bark at night."
QUERY = ["--query", "Where is the needle?"]


@pytest.fixture
def run(tmp_path, command):
    def run(*args, stdin=b"", **env):
        data = stdin if isinstance(stdin, bytes) else stdin.encode()
        clean = {
            k: v for k, v in os.environ.items() if not k.startswith("TOKENPRUNE_") or k == "TOKENPRUNE_CACHE"
        }
        done = command("prune", *args, input=data, cwd=tmp_path, env={**clean, **env})
        assert b"Traceback" not in done.stderr, done.stderr.decode()
        return done

    return run


def failure(done, status):
    """The message of a run that had to fail: on stderr, and nothing on stdout."""
    assert done.returncode == status, done.stderr.decode()
    assert done.stdout == b""
    message = done.stderr.decode()
    assert message.strip()
    return message


def test_text_from_a_file(run, tmp_path):
    (tmp_path / "notes.txt").write_text(TEXT)
    done = run(*QUERY, "--method", "bm25-sentences", "notes.txt")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == b"A needle is lost in the hay. "


def test_text_from_a_pipe(run):
    assert run(*QUERY, "-m", "bm25-sentences", "-", stdin=TEXT).stdout == b"A needle is lost in the hay. "


def test_json(run, tmp_path):
    (tmp_path / "page.html").write_text(
        "<h1>T</h1><script>x</script><p>A needle is lost.</p><p>Dogs bark.</p>"
    )
    done = run(*QUERY, "-m", "htmlrag-bm25", "--format", "json", "page.html")
    assert (done.returncode, done.stderr) == (0, b"")
    result = json.loads(done.stdout, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert set(result) >= {"documents", "receipts", "tokens_before", "tokens_after", "seconds"}
    (document,), (receipt,) = result["documents"], result["receipts"]
    assert document["kind"] == "html"
    assert "A needle is lost." in document["text"]
    assert "Dogs" not in document["text"]
    assert get_counter().count(document["text"]) == result["tokens_after"] == receipt["tokens_after"]
    assert result["tokens_before"] == receipt["tokens_before"]
    assert set(receipt["units"][0]) == {"start", "end", "tokens", "score", "kept", "stage", "reason"}
    assert {u["reason"] for u in receipt["units"]} == {"kept", "low-score", "script"}
    assert result["seconds"] >= 0


@pytest.mark.parametrize(("name", "content"), [("a.html", ""), ("B.HTM", "A needle is lost. &amp; found")])
def test_a_page_by_its_name(run, tmp_path, name, content):
    (tmp_path / name).write_text(content)
    done = run("-m", "clean-html", "--output", "text", name)
    assert (done.returncode, done.stdout.decode().strip()) == (0, content.replace("&amp;", "&"))


@pytest.mark.parametrize("limit", [0, 1, 12, 10**9])
def test_max_tokens(run, limit):
    out = run(*QUERY, "-m", "bm25-sentences", "--max-tokens", limit, "-", stdin=TEXT).stdout.decode()
    assert get_counter().count(out) <= limit
    assert (out == TEXT) == (limit == 10**9)


@pytest.mark.parametrize(("ratio", "kept"), [(0, ""), (1, TEXT), (0.5, "A needle is lost in the hay. ")])
def test_keep_ratio(run, ratio, kept):
    assert run(*QUERY, "-m", "bm25-sentences", "--keep-ratio", ratio, "-", stdin=TEXT).stdout.decode() == kept


def test_threshold(run):
    best = b"A needle is lost in the hay. "  # it stays where nothing scores enough
    assert run(*QUERY, "-m", "bm25-sentences", "--threshold", 99, "-", stdin=TEXT).stdout == best
    assert run(*QUERY, "-m", "bm25-sentences", "--threshold", 0, "-", stdin=TEXT).stdout.decode() == TEXT
    assert (
        run(*QUERY, "-m", "bm25-sentences", "--threshold", 0.1, "-", stdin=TEXT).stdout
        == b"A needle is lost in the hay. "
    )


def test_threshold_that_no_score_reaches(run):
    message = failure(run(*QUERY, "-m", "lazyllm", "--threshold", 1.5, "-", stdin=TEXT), 1)
    assert message.endswith("threshold is compared with shares of the layers: 0 to 1, not 1.5\n")


def test_threshold_of_a_method_without_one(run):
    message = failure(run(*QUERY, "-m", "none", "--threshold", 1, "-", stdin=TEXT), 1)
    assert "threshold" in message
    assert "'none'" in message


def test_kind(run):
    page = "<p>Cats.</p><p>A needle.</p>"
    assert (
        run(
            *QUERY, "-m", "bm25-sentences", "--kind", "text", "--keep-ratio", 1, "-", stdin=page
        ).stdout.decode()
        == page
    )
    loaded = json.loads(run("-m", "none", "--kind", "chat", "--format", "json", "-", stdin=page).stdout)
    assert loaded["documents"][0]["kind"] == "chat"
    loaded = json.loads(run("-m", "none", "--format", "json", "-", stdin=page).stdout)
    assert loaded["documents"][0]["kind"] == "html"
    message = failure(run(*QUERY, "--kind", "pdf", "-", stdin=TEXT), 2)
    assert "pdf" in message
    assert "triples" in message


PAGE = "<h1>Hay</h1><ul><li>A needle is lost.</li><li>Dogs bark.</li></ul>"


@pytest.mark.parametrize("method", ["none", "clean-html", "bm25-sentences", "all"])
def test_output(run, tmp_path, method):
    (tmp_path / "c.yaml").write_text(
        "pipelines: {all: {pruners: [clean-html, {name: bm25-sentences, keep_ratio: 1}]}}"
    )
    command = ["-m", method, "--config", "c.yaml", "--kind", "html", *QUERY, "-"]
    brief = "<h1>Hay</h1><ul><li>A needle is lost.<li>Dogs bark.</ul>"
    expected = {
        "same": (PAGE if method in ("none", "clean-html") else brief).encode(),
        "html": PAGE.encode(),
        "text": b"Hay\nA needle is lost.\nDogs bark.",
        "markdown": b"# Hay\n\n- A needle is lost.\n- Dogs bark.",
    }
    for output, text in expected.items():
        assert run("--output", output, *command, stdin=PAGE).stdout == text
    loaded = json.loads(run("--output", "markdown", "--format", "json", *command, stdin=PAGE).stdout)
    assert loaded["documents"][0]["text"].encode() == expected["markdown"]
    assert run("--output", "markdown", "-m", "none", "-", stdin=TEXT).stdout.decode() == TEXT


CONFIG = """
pipelines:
  default: {pruners: [bm25-sentences], budget: {max_tokens: 9}}
  all: {pruners: [none]}
"""


def test_config(run, tmp_path):
    (tmp_path / "c.yaml").write_text(CONFIG)
    assert run(*QUERY, "--config", "c.yaml", "-", stdin=TEXT).stdout == b"A needle is lost in the hay. "
    assert run("--config", "c.yaml", "-m", "all", "-", stdin=TEXT).stdout.decode() == TEXT
    assert run(*QUERY, "--config", "c.yaml", "--threshold", 99, "-", stdin=TEXT).stdout  # the best stays
    assert run(*QUERY, "-", stdin=TEXT, TOKENPRUNE_CONFIG="c.yaml").stdout == b"A needle is lost in the hay. "
    message = failure(run(*QUERY, "--config", "c.yaml", "-m", "all", "--threshold", 1, "-", stdin=TEXT), 1)
    assert "'all' is a configured pipeline" in message


@pytest.mark.parametrize(
    "text", ["pruners: [nonesuch]", "pipelnes: {}", "a: [", "pruners: [none]\npipelines: 3"]
)
def test_wrong_config(run, tmp_path, text):
    (tmp_path / "c.yaml").write_text(text)
    message = failure(run("--config", "c.yaml", "-", stdin=TEXT), 1)
    assert message.startswith("tokenprune: ")


def test_missing_config(run):
    message = failure(run("--config", "missing.yaml", "-", stdin=TEXT), 1)
    assert "cannot read the configuration missing.yaml" in message
    assert message.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "status", "expected"),
    [
        (["-m", "nonesuch", "-"], 1, ["nonesuch", "bm25-sentences", "clean-html"]),
        (["-m", "nonesuch", "--threshold", "1", "-"], 1, ["nonesuch", "bm25-sentences"]),
        (["missing.txt"], 2, ["missing.txt", "No such file"]),
        (["."], 2, ["cannot read"]),
        ([], 2, ["FILE"]),
        (["--max-tokens", "5", "--keep-ratio", "0.5", "-"], 2, ["--max-tokens", "--keep-ratio", "only one"]),
        (["--max-tokens", "5", "--threshold", "0.5", "-"], 2, ["only one"]),
        (["--max-tokens", "many", "-"], 2, ["--max-tokens", "integer"]),
        (["--format", "xml", "-"], 2, ["xml"]),
        (["--output", "xml", "-"], 2, ["xml", "markdown"]),
        (["--nonesuch", "-"], 2, ["--nonesuch"]),
        (["-m", "bm25-sentences", "-"], 1, ["query is empty", "bm25-sentences"]),
        (["-q", "x", "-m", "bm25-sentences", "--keep-ratio", "1.5", "-"], 1, ["between 0 and 1"]),
        (["-q", "x", "-m", "bm25-sentences", "--max-tokens", "-3", "-"], 1, ["0 or more"]),
        (["-m", "none", "--tokenizer", "nonesuch", "-"], 1, ["unknown tokenizer", "smollm2-135m"]),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) and v and v[0].startswith("-") else None,
)
def test_errors(run, arguments, status, expected):
    message = failure(run(*arguments, stdin=TEXT), status)
    for part in expected:
        assert part in " ".join(message.replace("│", " ").split())
    if status == 1:
        assert message.count("\n") == 1, "one line"


def test_empty_and_odd_input(run):
    assert run(*QUERY, "-m", "bm25-sentences", "-").stdout == b""
    assert run("-m", "none", "-", stdin=b"a\x00b \xff\xfe c").returncode == 0
    latin = "naïve café — “quoted”"
    assert run("-m", "none", "-", stdin=latin.encode("utf-16")).stdout.decode() == latin


def test_streams_of_another_encoding():
    odd = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii"}  # read by the interpreter itself at its start
    told = "日本語。\r\n".encode()
    asked = [COMMAND, "prune", "-m", "none", "-"]
    assert subprocess.check_output(asked, input=told, env={**os.environ, **odd}, timeout=60) == told


def test_query_that_is_not_utf8(run):
    done = run("-q", os.fsdecode(b"needle \xff"), "-m", "bm25-sentences", "--format", "json", "-", stdin=TEXT)
    assert done.returncode == 0
    assert "needle" in json.loads(done.stdout)["documents"][0]["text"]


def test_reader_that_goes_away(tmp_path):
    """``tokenprune prune ... | head -c 1``: no traceback."""
    (tmp_path / "a.txt").write_text("A sentence of words. " * 50_000)
    process = subprocess.Popen(
        [COMMAND, "prune", "-m", "none", str(tmp_path / "a.txt")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout.read(1) == b"A"
    process.stdout.close()
    message = process.stderr.read().decode()
    process.stderr.close()
    assert process.wait(60) in (0, 1)
    assert message == ""


def test_help_has_examples(run):
    done = run("--help")
    assert done.returncode == 0
    assert b"tokenprune prune --query" in done.stdout
    assert b"--format json" in done.stdout
    assert b"--output markdown" in done.stdout


@pytest.mark.models
def test_default_method(run):
    """Nothing but a question: the answer stays."""
    page = "<h1>Hay</h1><p>A needle is lost in the hay.</p>" + "<p>Dogs bark at the moon.</p>" * 20
    done = run(*QUERY, "--max-tokens", 40, "-", stdin=page)
    assert b"A needle is lost in the hay." in done.stdout
    assert get_counter().count(done.stdout.decode()) <= 40


def test_a_labeler_by_configuration(run, tmp_path, tiny):
    model = tiny("open-modernbert").folder
    config = tmp_path / "tokenprune.yaml"
    config.write_text(f"pruners: [{{name: provence, model: '{model}', threshold: 0}}]\n")
    done = run(*QUERY, "--config", config, "--max-tokens", 8, "--format", "json", "-", stdin=TEXT)
    assert done.returncode == 0, done.stderr.decode()
    result = json.loads(done.stdout)
    assert 0 < result["tokens_after"] <= 8
    assert isinstance(result["receipts"][0]["rank"], float)
    config.write_text("pruners: [{name: provence, model: nobody/nothing-like-it}]\n")
    message = failure(run(*QUERY, "--config", config, "-", stdin=TEXT, HF_HUB_OFFLINE="1"), 1)
    assert "cannot get" in message
