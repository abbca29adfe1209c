"""Silver labels: a real run against the built-in engine, and faults that a real server cannot be made to have."""

import gzip
import json
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from typer.testing import CliRunner

from tokenprune.errors import ConfigError, ModelError
from tokenprune.training.sets import load_file, rows, unlabelled
from tokenprune.training.silver import Upstream, app, label

MODEL = "smollm2-135m"
ROWS = [
    {
        "id": "tower",
        "question": "When was the tower finished?",
        "passages": [{"title": "Tower", "sentences": ["It stands in Paris.", "It was finished in 1889."]}],
        "source": "ours",
        "group": "towers",
    },
    {"id": "bird", "query": "What do owls eat?", "passages": [{"text": "Owls are birds. They eat mice."}]},
    {"id": "none", "question": "Who wrote it?", "passages": [{"sentences": ["Rain fell.", "It was cold."]}]},
]


def items(*numbers):
    return [unlabelled(ROWS[n]) for n in numbers or range(len(ROWS))]


def written(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


# -- a real server --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def engine():
    uvicorn = pytest.importorskip("uvicorn")
    from tokenprune_server.embedded import create_embedded_app

    app = create_embedded_app(MODEL, max_model_len=512)
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=5))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]})
        thread.start()
        while not server.started and thread.is_alive():
            time.sleep(0.02)
        yield f"http://127.0.0.1:{sock.getsockname()[1]}"
        server.should_exit = True
        thread.join(timeout=30)


@pytest.mark.models
def test_a_run_is_complete_and_goes_on_where_it_was(engine, tmp_path):
    source, out = tmp_path / "in.jsonl.gz", tmp_path / "new" / "out.jsonl"
    with gzip.open(source, "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in [*ROWS, ROWS[0]])
    command = ["--upstream", engine + "/v1", "--model", MODEL, "--in", str(source), "--out", str(out)]
    command += ["--max-tokens", "24", "--concurrency", "2"]
    first = CliRunner().invoke(app, [*command, "--limit", "2"])
    assert first.exit_code == 0, first.output
    assert "2 asked now" in first.stdout
    lines = out.read_bytes()
    out.write_bytes(lines + b'{"id": "none", "mod')  # as a killed run leaves it
    second = CliRunner().invoke(app, command)
    assert second.exit_code == 0, second.output
    assert "1 asked now" in second.stdout
    assert out.read_bytes().startswith(lines)
    made = written(out)
    assert {row["id"] for row in made[:2]} == {"tower", "bird"} and made[2]["id"] == "none"
    kinds = [row["kind"] for row in made]
    uncited, cut = kinds.count("uncited"), kinds.count("cut")
    assert f"{3 - uncited - cut} labelled ({kinds.count('no answer')} without an answer)" in second.stdout
    assert f"{uncited} dropped, because the answer cites nothing, {cut}, because" in second.stdout
    kept = load_file(out, "silver")
    assert [i.id for i in kept] == [r["id"] for r in made if r["kind"] not in ("uncited", "cut")]
    for one in kept:
        (asked,) = [i for i in items() if i.id == one.id]
        assert [p.sentences for p in one.passages] == [p.sentences for p in asked.passages]
        assert (one.question, one.group) == (asked.question, asked.group)
    third = label(items(), out, Upstream(engine, MODEL, max_tokens=24))
    assert third == {kind: kinds.count(kind) for kind in set(kinds)}


@pytest.mark.models
def test_a_refusal_is_one_clear_error_and_keeps_what_came_before(engine, tmp_path):
    out = tmp_path / "out.jsonl"
    with pytest.raises(ModelError, match=r"'tower'.*404.*no-such-model"):
        label(items(), out, Upstream(engine, "no-such-model", concurrency=1))
    long = unlabelled({"id": "long", "question": "?", "passages": [{"text": "word " * 2000}]})
    with pytest.raises(ModelError, match=r"'long'.*400"):
        label([*items(0), long, *items(1)], out, Upstream(engine, MODEL, concurrency=1, max_tokens=8))
    assert [row["id"] for row in written(out)] == ["tower"]


# -- faults ---------------------------------------------------------------------------------------------


@pytest.fixture
def fake():
    """A server that answers with the next of ``fake.script``: (status, headers, body or text of an answer)."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            with server.lock:
                server.asked.append((body, dict(self.headers)))
                server.now += 1
                server.most = max(server.most, server.now)
                status, headers, answer = (
                    server.script.pop(0) if server.script else (200, {}, "It is so [1].")
                )
            time.sleep(0.01)
            if isinstance(answer, str):
                answer = {"choices": [{"message": {"content": answer}}]}
            data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            with server.lock:
                server.now -= 1
            self.send_response(status)
            for name, value in {"content-length": str(len(data)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.lock, server.asked, server.script, server.now, server.most = threading.Lock(), [], [], 0, 0
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def quick(url, **options):
    return Upstream(url, "m", first_wait_s=0.001, **options)


def test_overload_and_failures_are_tried_again(fake, tmp_path):
    fake.script += [(429, {"retry-after": "0"}, {}), (503, {}, b"busy"), (500, {"retry-after": "soon"}, {})]
    counts = label(items(0), tmp_path / "o", quick(fake.url, api_key="k"))
    assert counts == {"answered": 1, "asked": 1}
    assert len(fake.asked) == 4
    body, headers = fake.asked[0]
    assert body["temperature"] == 0 and body["model"] == "m"
    assert headers["authorization"] == "Bearer k" and headers["x-tokenprune-enabled"] == "false"


def test_attempts_end(fake, tmp_path):
    fake.script += [(502, {}, b"bad gateway")] * 3
    with pytest.raises(ModelError, match=r"'tower'.*502: bad gateway; run again"):
        label(items(0), tmp_path / "o", quick(fake.url, attempts=3))
    assert len(fake.asked) == 3
    assert label(items(0), tmp_path / "o", quick(fake.url))["asked"] == 1


@pytest.mark.parametrize(
    "body", [b"<html>", {}, {"choices": []}, {"choices": [{"message": {"content": 3}}]}, []]
)
def test_an_answer_of_another_kind_is_one_clear_error(fake, tmp_path, body):
    fake.script.append((200, {}, body))
    with pytest.raises(ModelError, match="without a chat completion"):
        label(items(0), tmp_path / "o", quick(fake.url))
    assert len(fake.asked) == 1


def test_an_answer_of_none_or_odd_characters_is_an_answer(fake, tmp_path):
    fake.script += [(200, {}, {"choices": [{"message": {"content": None}}]}), (200, {}, "\ud800 [2]\r\u2028")]
    counts = label(items(0, 1), tmp_path / "o", quick(fake.url, concurrency=1))
    assert counts == {"uncited": 1, "answered": 1, "asked": 2}
    assert label(items(0, 1), tmp_path / "o", quick(fake.url)) == {"uncited": 1, "answered": 1}
    (kept,) = load_file(tmp_path / "o", "silver")
    assert kept.passages[0].labels == (0, 1)


def test_an_answer_that_was_cut_is_no_label(fake, tmp_path):
    """What it would have cited further on is not known."""
    ends = [("Found [1].", "length"), ("No answer", "length"), ("Found [1].", "stop"), ("Found [1].", None)]
    for text, reason in ends:
        choice = {"message": {"content": text}} | ({"finish_reason": reason} if reason else {})
        fake.script.append((200, {}, {"choices": [choice]}))
    counts = label(
        [unlabelled(ROWS[0] | {"id": str(n)}) for n in range(4)],
        tmp_path / "o",
        quick(fake.url, concurrency=1),
    )
    assert counts == {"cut": 2, "answered": 2, "asked": 4}
    assert [item.id for item in load_file(tmp_path / "o", "silver")] == ["2", "3"]
    same = [unlabelled(ROWS[0] | {"id": str(n)}) for n in range(4)]
    assert label(same, tmp_path / "o", quick(fake.url)) == {"cut": 2, "answered": 2}
    fake.script += [(200, {}, "Found [1].")] * 2
    longer = label(same, tmp_path / "o", quick(fake.url, max_tokens=400, concurrency=1))
    assert longer == {"answered": 4, "asked": 2}
    assert [item.id for item in load_file(tmp_path / "o", "silver")] == ["2", "3", "0", "1"]


def test_so_many_at_once_and_no_more(fake, tmp_path):
    many = [unlabelled(ROWS[0] | {"id": str(n)}) for n in range(12)]
    ticks = []
    assert label(many, tmp_path / "o", quick(fake.url, concurrency=3), lambda: ticks.append(1))["asked"] == 12
    assert 1 < fake.most <= 3
    assert len(ticks) == 12


def test_a_server_that_is_not_there(tmp_path):
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{sock.getsockname()[1]}"
    with pytest.raises(ModelError, match="cannot be reached"):
        label(items(0), tmp_path / "o", quick(url, attempts=2))
    for url in ("nonsense", "http://[::1", "ftp://127.0.0.1"):
        with pytest.raises(ModelError, match="is not the URL of a server"):
            label(items(0), tmp_path / "o", quick(url))


def test_bad_files_are_clear_errors(fake, tmp_path):
    out = tmp_path / "o"
    label(items(0), out, quick(fake.url))
    with pytest.raises(ConfigError, match="labels of model 'm', not 'other'"):
        label(items(1), out, Upstream(fake.url, "other"))
    notes = tmp_path / "notes.txt"
    notes.write_text("my notes\n")
    with pytest.raises(ConfigError, match="line 1"):
        label(items(1), notes, quick(fake.url))
    assert notes.read_text() == "my notes\n"
    for text in ('{"id": "x"}', '{"id": "x", "question": "q", "passages": [{"sentences": [3]}]}', "[1]", "{"):
        (tmp_path / "in").write_text(text + "\n")
        with pytest.raises(ConfigError):
            [unlabelled(row) for row in rows(tmp_path / "in")]
        command = ["--upstream", fake.url, "--model", "m", "--in", str(tmp_path / "in"), "--out", str(out)]
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 1 and result.stderr.startswith("tokenprune: ")
    with pytest.raises(ConfigError, match="no sentences"):
        unlabelled({"id": "x", "question": "q", "passages": [{"text": " "}]})
    with pytest.raises(ConfigError, match="missing"):
        list(rows(tmp_path / "missing"))
    with pytest.raises(ConfigError):
        label(items(0), out, Upstream(fake.url, "m", concurrency=0))
