"""``tokenprune bench quality`` and ``bench export`` as a person runs them."""

import json
import os

import pytest


@pytest.fixture
def run(tmp_path, command):
    def run(*args):
        clean = {
            k: v for k, v in os.environ.items() if not k.startswith("TOKENPRUNE_") or k == "TOKENPRUNE_CACHE"
        }
        done = command("bench", *args, text=True, cwd=tmp_path, env=clean)
        assert "Traceback" not in done.stderr, done.stderr
        return done

    return run


def test_quality_names_the_best(run, tmp_path):
    config = {"model_type": "llama", "hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2,
              "intermediate_size": 64, "vocab_size": 100}  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    done = run(
        "quality", "--workload", "rag-nq20:1000", "--limit", 4, "--methods", "none,bm25-sentences",
        "--budgets", "0.3,adaptive", "--out", "out", "--model-config", "config.json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out" / "report.json").read_text("utf-8"))
    assert len(report["rows"]) == 5 and report["cases"] == 4
    assert all(r["prefill_seconds"] > 0 for r in report["rows"])
    assert f"recommended: {report['recommended']}. Of all rows with evidence within 2%" in done.stdout
    for row in report["rows"]:
        line = next(x for x in done.stdout.splitlines() if x.startswith(f"{row['method']}")
                    and (row["budget"] in x or row["method"] == "full"))  # fmt: skip
        assert f"{row['tokens']:.0f}" in line
    assert (tmp_path / "out" / "report.html").is_file()


@pytest.mark.models
def test_the_table_fits_a_terminal(run, tmp_path):
    """Intervals go into the reports alone where they would make it wider than 80 columns."""
    about = {"model_type": "llama", "hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2,
             "intermediate_size": 64, "vocab_size": 100}  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(about))
    ask = ("quality", "--workload", "rag-nq20:300", "--limit", 8, "--methods", "bm25-sentences",
           "--budgets", "0.3", "--out", "out")  # fmt: skip
    narrow = run(*ask)
    assert "95 %" in narrow.stdout.splitlines()[0] and "in the reports" not in narrow.stdout
    wide = run(*ask, "--nll", "smollm2-135m", "--model-config", "config.json")
    assert wide.returncode == 0, wide.stderr
    table = wide.stdout.split("(95 % intervals: in the reports)")[0].splitlines()
    assert {"evidence", "NLL", "prefill"} <= set(table[0].split()) and "95" not in table[0]
    assert max(map(len, table)) <= 80
    assert "95 %" in (tmp_path / "out" / "report.html").read_text("utf-8")


def test_a_pipeline_called_as_the_full_row(run, tmp_path):
    (tmp_path / "c.yaml").write_text("pipelines: {full: {pruners: [tail]}, mine: {pruners: [tail]}}")
    ask = ("quality", "--workload", "needle:500", "--limit", 1, "--budgets", "50", "--config", "c.yaml")
    done = run(*ask, "--methods", "full,tail", "--out", "out")
    assert done.returncode == 1
    assert "'full' is the row of the whole context" in done.stderr and "c.yaml" in done.stderr
    assert run(*ask, "--methods", "mine", "--out", "out").returncode == 0  # nothing to mix up


def test_quality_finds_documents_in_messages(run, tmp_path):
    passages = "\n\n".join(
        f"[{n}] Rain falls on the hills of region {n}, where owls live. " * 6 for n in range(1, 4)
    )
    content = f"Context:\n{passages}\n\n[4] The needle is red. \n\nQuestion: Which colour has the needle?"
    lines = [{"messages": [{"role": "user", "content": content}], "evidence": ["The needle is red."]}]
    (tmp_path / "mine.jsonl").write_text("\n".join(map(json.dumps, lines)))
    done = run(
        "quality", "--workload", "mine.jsonl", "--methods", "bm25-sentences", "--budgets", "20", "--out", "o"
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "o" / "report.json").read_text("utf-8"))["rows"]
    assert [r["evidence"] for r in rows] == [1, 1] and rows[1]["tokens"] <= 20


def test_export(run, tmp_path):
    done = run("export", "--workload", "needle:500", "--limit", 2, "--out", "n.jsonl")
    assert done.returncode == 0 and "2 prompts" in done.stderr
    assert len((tmp_path / "n.jsonl").read_text().splitlines()) == 2


def test_errors_and_help(run):
    for args, status, message in (
        (("quality", "--workload", "x", "--out", "o"), 1, "unknown workload 'x'"),
        (
            ("quality", "--workload", "needle", "--out", "o", "--methods", "nonesuch"),
            1,
            "unknown pipeline or method",
        ),
        (
            ("quality", "--workload", "needle", "--out", "o", "--budgets", "x"),
            2,
            "--budgets x: 'x' is no budget",
        ),
        (
            ("quality", "--workload", "needle", "--out", "o", "--budgets", "0,-1,a"),
            2,
            "--budgets 0,-1,a: '-1' is no",
        ),
        (("quality", "--workload", "needle", "--out", "/proc/no"), 1, "cannot write the report to /proc/no"),
        (("quality", "--workload", "needle", "--out", "o", "--budgets", ","), 2, "--budgets names no budget"),
        (("quality", "--workload", "needle"), 2, "--out"),
        (("export", "--workload", "chat-long", "--out", "x.jsonl"), 1, "one prompt a line"),
    ):
        done = run(*args)
        assert done.returncode == status and message in done.stderr, (args, done.stderr)
    for command in ("quality", "export"):
        assert f"tokenprune bench {command} --workload rag-nq20" in run(command, "--help").stdout
