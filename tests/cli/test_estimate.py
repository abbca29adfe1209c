"""``tokenprune estimate``: every form of a line, figures that add up, bad lines counted and named."""

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenprune.cli.requests import CHAT, COMPLETIONS, DOCUMENTS, parse, rewriting
from tokenprune.config import Config
from tokenprune.errors import ConfigError
from tokenprune.tokens import get_counter

CONTEXT = "The tower was finished in 1889. " + "It rains on the hills where the owls live. " * 60
ASKED = f"Context:\n{CONTEXT}\n\nQuestion: When was the tower finished?"
BODY = {"model": "m", "messages": [{"role": "user", "content": ASKED}]}
BM25 = Config(pipelines={"default": {"pruners": ["bm25-sentences"]}})


@pytest.fixture
def run(tmp_path, command):
    def run(lines, *args):
        (tmp_path / "log.jsonl").write_bytes(
            b"\n".join(x if isinstance(x, bytes) else json.dumps(x).encode() for x in lines)
        )
        clean = {
            k: v for k, v in os.environ.items() if not k.startswith("TOKENPRUNE_") or k == "TOKENPRUNE_CACHE"
        }
        done = command("estimate", "log.jsonl", *args, text=True, cwd=tmp_path, env=clean)
        assert "Traceback" not in done.stderr, done.stderr
        return done

    return run


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        (BODY, CHAT),
        ({"request": BODY}, CHAT),
        ({"body": BODY, "custom_id": "1", "url": "/v1/chat/completions"}, CHAT),
        ({"request": {"body": BODY}}, CHAT),
        ({"prompt": ASKED}, COMPLETIONS),
        ({"request": {"prompt": [ASKED, "x"]}}, COMPLETIONS),
        ({"question": "When?", "documents": [CONTEXT]}, DOCUMENTS),
    ],
)
def test_forms_of_a_line(line, kind):
    asked = parse(json.dumps(line))
    assert asked.kind == kind
    found = rewriting(BM25, {"max_tokens": 30})(asked)
    assert found.decision == "pruned"
    assert len(found.after) < len(found.before) / 4
    assert "1889" in found.after


@pytest.mark.parametrize("line", ["", "x", "[]", "3", "null", "{}", '{"request": {}}', '{"body": "x"}', '{"messages": 3}', '{"messages": []}',
                                  '{"question": "Q", "documents": [3]}', "[" * 100_000])  # fmt: skip
def test_no_requests(line):
    with pytest.raises(ConfigError):
        parse(line)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["messages", "prompt", "request", "body", "role", "content", "text", "documents", "question",
                         "tokenprune", "x"]), inner, max_size=4),
    max_leaves=10,
)  # fmt: skip


@given(_json)
def test_any_json_is_estimated_or_refused(value):
    try:
        asked = parse(json.dumps(value))
        found = rewriting(BM25, {})(asked)
    except ConfigError:
        return
    assert found.decision.split(":")[0] in ("pruned", "skipped", "failed")
    if not found.decision.startswith("pruned"):
        assert found.before == found.after


def test_options_of_the_command_win():
    body = {**BODY, "tokenprune": {"keep_ratio": 1.0, "pipeline": "none"}}
    asked = parse(json.dumps(body))
    assert rewriting(BM25, {})(asked).decision == "skipped:fits-budget"
    found = rewriting(BM25, {"method": "bm25-sentences", "max_tokens": 20})(asked)
    assert found.decision == "pruned" and "1889" in found.after
    off = parse(json.dumps({**BODY, "tokenprune": {"enabled": False}}))
    assert rewriting(BM25, {})(off).decision == "skipped:disabled"
    wrong = parse(json.dumps({**BODY, "tokenprune": {"max_tokens": -1}}))
    with pytest.raises(ConfigError, match="max_tokens"):
        rewriting(BM25, {})(wrong)


def test_figures_add_up(run):
    chat = {"messages": [{"role": "user", "content": "Hello there, how are you today?"}]}
    lines = [BODY, BODY, b"garbage", b"", chat, {"prompt": ASKED}, {"x": 1}]
    done = run(lines, "-m", "bm25-sentences", "--max-tokens", 30, "--prefill-rate", 1000, "--price-in", 2,
               "--price-cached", 0.5, "--format", "json")  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    total, kinds = report["total"], report["kinds"]
    asked = get_counter().count(ASKED)
    hello = get_counter().count(chat["messages"][0]["content"])
    assert set(kinds) == {CHAT, COMPLETIONS}
    assert kinds[CHAT]["requests"] == 3 and kinds[CHAT]["decisions"]["pruned"] == 2
    assert kinds[COMPLETIONS]["before"]["tokens"] == asked
    assert kinds[CHAT]["before"]["tokens"] == 2 * asked + hello
    assert total["before"]["tokens"] == 3 * asked + hello
    # The same text came before, on either route: all but the last block is in the cache.
    cached = (asked - 1) // 16 * 16
    assert total["before"]["cached"] == 2 * cached
    assert total["before"]["prefill_seconds"] == pytest.approx((3 * asked + hello - 2 * cached) / 1000)
    assert total["before"]["usd"] == pytest.approx(
        ((3 * asked + hello - 2 * cached) * 2 + 2 * cached * 0.5) / 1e6
    )
    assert total["saved_tokens"] == sum(k["saved_tokens"] for k in kinds.values()) > 2 * asked
    assert report["bad_lines"]["count"] == 2 and report["bad_lines"]["first"] == [3, 7]
    assert report["bad_lines"]["error"].startswith("line 3: not JSON")


def test_text(run):
    done = run(
        [BODY, b"\xff"], "-m", "bm25-sentences", "--keep-ratio", 0.1, "--prefill-rate", 1000, "--price-in", 1
    )
    assert done.returncode == 0, done.stderr
    assert "/v1/chat/completions" in done.stdout and "1000 tokens a second" in done.stdout
    assert "saved" in done.stdout and "USD" in done.stdout
    assert done.stderr.strip().startswith("1 bad line; line 2: not UTF-8 (byte 0)")
    head = done.stdout.splitlines()[0]
    for name in ("tokens", "cached", "prefill s", "USD"):
        assert f"{name} before" in head and f"{name} after" in head


def test_bad_lines_and_a_byte_order_mark(run):
    lines = [b"\xef\xbb\xbf" + json.dumps(BODY).encode(), b"[1,,]", {"messages": []}, BODY]
    done = run(lines, "-m", "bm25-sentences", "--format", "json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["total"]["requests"] == 2 and report["bad_lines"]["first"] == [2, 3]
    done = run([BODY, b"[1,,]", {"messages": []}], "-m", "bm25-sentences")
    assert done.stderr.strip().startswith("2 bad lines (2, 3); line 2: not JSON (")
    assert done.stderr.count("line 1") == 0 and "character 3" in done.stderr


def test_errors_and_help(run, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    for args, status, message in (
        (("--keep-ratio", 0.1, "--max-tokens", 3), 2, "only one of --keep-ratio and --max-tokens"),
        (("--price-cached", 1), 2, "--price-cached goes with --price-in"),
        (("--hardware", "a100"), 2, "--model-config and --hardware go together"),
        (("--utilisation", 0.3), 2, "--utilisation goes with --hardware"),
        (("--prefill-rate", 0), 2, "--prefill-rate must be above 0"),
        (("--prefill-rate", 9, "--model-config", "x", "--hardware", "a100"), 2, "either --prefill-rate or"),
        (("--model-config", "config.json", "--hardware", "a100"), 1, "model_type 'gpt2' is not known"),
        (("-m", "nonesuch"), 1, "unknown pipeline or method 'nonesuch'"),
    ):
        done = run([BODY], *args)
        assert done.returncode == status and message in done.stderr, (args, done.stderr)
    done = run([b"x", b"{}"])
    assert done.returncode == 1 and "no request that can be read; line 1: not JSON" in done.stderr
    assert "tokenprune estimate log.jsonl" in run([], "--help").stdout


def test_a_batch_of_prompts_counts_whole():
    made = rewriting(BM25, {"keep_ratio": 0.2})(parse(json.dumps({"prompt": [ASKED, ASKED + " Tell me."]})))
    assert made.before.count("The tower was finished in 1889.") == 2
    count = get_counter().count
    assert 0.3 * count(made.before) > count(made.after) and made.after.count("Question:") == 2
