"""``tokenprune show`` as a person runs it: a real process, files and pipes, and a terminal that rich is told of."""

import json
import os
import re
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenprune.cli.show import shortened
from tokenprune.cli.stretches import Stretch, from_result, shown
from tokenprune.errors import ConfigError
from tokenprune.pipeline import Pipeline

KEPT = "A needle is lost in the hay. "
TEXT = f"Cats sleep all day. {KEPT}Dogs bark at night."
ASK = ["--query", "Where is the needle?", "--method", "bm25-sentences"]
COLOUR = {"FORCE_COLOR": "1", "TERM": "xterm-256color", "COLUMNS": "200"}
_CODES = re.compile(r"\x1b\[([0-9;]*)m")


@pytest.fixture
def run(tmp_path, command):
    def run(*args, stdin=b"", status=0, **env):
        data = stdin if isinstance(stdin, bytes) else stdin.encode()
        names = ("NO_COLOR", "FORCE_COLOR", "COLUMNS")
        clean = {k: v for k, v in os.environ.items() if k not in names}
        done = command(*args, input=data, cwd=tmp_path, env={**clean, **env})
        message = done.stderr.decode()
        assert done.returncode == status, message
        assert "Traceback" not in message
        return done.stdout.decode() if status == 0 else message

    return run


def styled(output):
    """Texts with the codes that were on: (codes, text)."""
    parts = _CODES.split(output)
    return [(set(code.split(";")), text) for code, text in zip(parts[1::2], parts[2::2], strict=True)]


def test_plain_where_there_is_no_terminal(run):
    legend, body = run("show", *ASK, "-", stdin=TEXT).split("\n", 1)
    assert body == f"Cats sleep all day. ⟦{KEPT}⟧Dogs bark at night.\n"
    before, after = re.match(
        r"(\d+) -> (\d+) tokens \(\d+%\); 1 of 3 units kept, low-score 2;", legend
    ).groups()
    assert 0 < int(after) < int(before)
    assert run("show", *ASK, "-", stdin=TEXT, **COLOUR, NO_COLOR="1") == f"{legend}\n{body}"


def test_styles_on_a_terminal(run):
    parts = styled(run("show", *ASK, "-", stdin=TEXT, **COLOUR))
    kept = "".join(text for codes, text in parts if codes == {"1"})
    dropped = "".join(text for codes, text in parts if codes == {"2", "9"})
    assert kept.endswith(KEPT) and "Cats" not in kept
    assert "Cats sleep all day. " in dropped and "Dogs bark at night." in dropped and "needle" not in dropped


def test_width(run):
    out = run("show", *ASK, "--width", 24, "-", stdin=TEXT, **COLOUR)
    lines = [_CODES.sub("", line) for line in out.splitlines()]
    assert max(map(len, lines)) <= 24 < max(map(len, run("show", *ASK, "-", stdin=TEXT).splitlines()))
    plain = run("show", *ASK, "--width", 24, "-", stdin=TEXT).splitlines()
    assert max(map(len, plain)) <= 24
    assert "".join("".join(plain).split()).endswith("⟧Dogsbarkatnight.")
    assert "20" in run("show", *ASK, "--width", 3, "-", stdin=TEXT, status=2)


def test_scores_of_every_unit(run):
    body = run("show", *ASK, "--scores", "-", stdin=TEXT).split("\n", 1)[1]
    scores = re.findall(r"\(([\d.e-]+)\)", body)
    assert len(scores) == 3 and float(scores[1]) > float(scores[0]) == float(scores[2]) == 0


def test_html_blocks_and_a_page(run, tmp_path):
    (tmp_path / "page.html").write_text(
        f"<h1>T</h1><script>x < 1</script><p>{KEPT}</p><p>Dogs & cats bark.</p>"
    )
    ask = ["--query", "needle", "--method", "htmlrag-bm25"]
    body = run("show", *ask, "page.html").split("\n", 1)[1]
    kept = "".join(re.findall("⟦(.*?)⟧", body))
    assert KEPT.strip() in kept and "script" not in kept and "Dogs" not in kept
    assert re.sub("[⟦⟧]", "", body) == (tmp_path / "page.html").read_text() + "\n"
    assert run("show", *ask, "page.html", "--html", "out.html") == ""

    class Reader(HTMLParser):
        def __init__(self):
            super().__init__()
            self.text, self.outside, self.styles, self.struck = "", [], [], ""

        def handle_starttag(self, tag, attrs):
            self.outside += [v for k, v in attrs if k in ("src", "href")]
            self.styles.append(dict(attrs).get("style") or "")

        def handle_endtag(self, tag):
            self.styles.pop()

        def handle_data(self, data):
            self.text += data
            self.struck += data if self.styles and "line-through" in self.styles[-1] else ""

    reader = Reader()
    reader.feed((tmp_path / "out.html").read_text(encoding="utf-8").replace('<meta charset="UTF-8">', ""))
    assert not reader.outside
    assert (
        KEPT.strip() in reader.text
        and "Dogs & cats bark." in reader.struck
        and KEPT.strip() not in reader.struck
    )
    assert "cannot write" in run("show", *ask, "page.html", "--html", "no/out.html", status=2)


def test_long_stretches_areshortened(run):
    text = "Dogs bark at night. " * 100 + KEPT
    body = run("show", *ASK, "-", stdin=text).split("\n", 1)[1]
    assert "[… 1,700 characters …]" in body and len(body) < 400
    assert "Dogs" not in run("show", *ASK, "--dropped", 0, "-", stdin=text).split("\n", 1)[1]
    assert run("show", *ASK, "--dropped", -1, "-", stdin=text).split("\n", 1)[1].count("Dogs") == 100


def test_a_receipt_with_its_file(run, tmp_path):
    (tmp_path / "notes.txt").write_text(TEXT)
    (tmp_path / "r.json").write_text(run("prune", *ASK, "--format", "json", "notes.txt"))
    assert run("show", "--receipt", "r.json", "notes.txt") == run("show", *ASK, "notes.txt")
    assert "'doc0'" in run("show", "--receipt", "r.json", status=1)
    (tmp_path / "notes.txt").write_text(TEXT[:-1])
    assert "is of another text" in run("show", "--receipt", "r.json", "notes.txt", status=1)


def test_a_receipt_of_the_proxy(run, tmp_path):
    result = Pipeline(["bm25-sentences"]).prune("needle", [TEXT, "Dogs bark. A needle."])
    (tmp_path / "r.json").write_text(json.dumps({"id": "rcpt_x", "results": [from_result(result)]}))
    out = run("show", "--receipt", "r.json")
    assert f"⟦{KEPT}⟧" in out and "⟦A needle.⟧" in out
    assert out.startswith("doc0: ") and "\ndoc1: " in out
    assert "one document" in run("show", "--receipt", "r.json", "-", stdin=TEXT, status=1)


def test_the_text_cannot_steer_the_terminal(run):
    out = run("show", "-m", "none", "-", stdin="a\x1b]0;title\x07\x1b[31mred\x9b1m \u202eevil", **COLOUR)
    assert out.count("\x1b") == len(_CODES.findall(out)) and "\x1b[31m" not in out
    assert "␛]0;title␇␛[31mred" in out and "\x9b" not in out and "\u202e" not in out


@pytest.mark.parametrize(
    ("arguments", "status", "expected"),
    [
        ([], 2, ["FILE", "--receipt"]),
        (["missing.txt"], 2, ["missing.txt", "No such file"]),
        (["--receipt", "missing.json"], 2, ["missing.json"]),
        (["--receipt", "bad.json"], 1, ["bad.json is not JSON"]),
        (["--receipt", "list.json"], 1, ["no JSON object"]),
        (["--receipt", "other.json"], 1, ["prune --format json", "receipts"]),
        (["--receipt", "other.json", "-m", "none"], 2, ["no option of pruning"]),
        (["--dropped", "-2", "-"], 2, ["--dropped", "-1"]),
        (["-m", "htmlrag-bm25", "-q", "x", "-"], 1, ["'htmlrag-bm25' is for html", "--kind"]),
        (["-m", "bm25-sentences", "-"], 1, ["query is empty"]),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) and v and v[0].startswith("-") else None,
)
def test_errors(run, tmp_path, arguments, status, expected):
    for name, content in (("bad", "{"), ("list", "[]"), ("other", '{"a": 1}')):
        (tmp_path / f"{name}.json").write_text(content)
    message = run("show", *arguments, stdin=TEXT, status=status)
    for part in expected:
        assert part in " ".join(message.replace("│", " ").split())


def test_prune_says_when_a_method_is_not_for_the_input(run):
    message = run("prune", "-m", "gemfilter-q", "-q", "x", "-", stdin="<p>a</p><p>b</p>", status=1)
    assert "'gemfilter-q' is for chat, examples, text, triples, and the input is html" in message


@given(st.text(max_size=60), st.integers(-1, 40), st.booleans())
def test_shortening_keeps_both_ends(text, most, kept):
    out = shortened(Stretch(text, kept), most)
    whole = shortened(Stretch(text, True), most)
    if kept or most < 0 or len(text) <= most:
        assert out == whole
    else:
        head, tail = out.split(f"[… {len(text) - most:,} characters …]")
        assert len(head) + len(tail) == most and whole.startswith(head) and whole.endswith(tail)
    out.encode()


@settings(max_examples=25)
@given(st.lists(st.tuples(st.text(min_size=1, max_size=5), st.booleans()), max_size=8))
def test_stretches_are_the_text(parts):
    text, units = "", []
    for piece, kept in parts:
        units.append({"start": len(text), "end": len(text) + len(piece), "kept": kept, "score": None})
        text += piece
    receipt = {"document_id": "d", "tokens_before": 3, "tokens_after": 1, "units": units}
    (joined,) = shown({"receipts": [receipt], "originals": {"d": text}})
    assert "".join(s.text for s in joined.stretches) == text
    assert all(a.kept != b.kept for a, b in zip(joined.stretches, joined.stretches[1:], strict=False))
    (every,) = shown({"receipts": [receipt], "originals": {"d": text}}, by_unit=True)
    assert [(s.text, s.kept) for s in every.stretches] == parts
    with pytest.raises(ConfigError, match="another text"):
        shown({"receipts": [receipt], "originals": {"d": text + "x"}})


@pytest.mark.models
@pytest.mark.parametrize("method", ["gemfilter-q", pytest.param("lazyllm", marks=pytest.mark.slow)])
def test_tokens_by_attention(run, method):
    """Token methods work on a file, and what is shown as kept is what `prune` writes."""
    ask = ["-m", method, "--query", "Where is the needle?", "--max-tokens", 12, "-"]
    text = "Dogs bark at the moon. " * 12 + KEPT
    body = run("show", *ask, stdin=text).split("\n", 1)[1]
    assert "".join(re.findall("⟦(.*?)⟧", body, re.S)) == run("prune", *ask, stdin=text) != ""
