"""``tokenprune bench`` as a person runs it."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tokenprune.cli.bench_ttft import command_line

COMMAND = str(Path(sys.executable).with_name("tokenprune"))


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def _head(self, kind, *extra):
        self.send_response(200)
        for name, value in (("content-type", kind), *extra):
            self.send_header(name, value)
        self.end_headers()

    def do_GET(self):
        body = json.dumps({"data": [{"id": "m"}]}).encode() if self.path == "/v1/models" else b"{}"
        self._head("application/json", ("content-length", str(len(body))))
        self.wfile.write(body)

    def do_POST(self):
        self.server.keys.append(self.headers.get("authorization"))
        self.rfile.read(int(self.headers["content-length"]))
        time.sleep(self.server.wait_s)
        chunk = {"choices": [{"delta": {"content": "yes"}, "finish_reason": "stop"}]}
        usage = {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 1}}
        data = "".join(f"data: {json.dumps(part)}\n\n" for part in (chunk, usage)) + "data: [DONE]\n\n"
        self._head("text/event-stream", ("content-length", str(len(data))))
        self.wfile.write(data.encode())


@pytest.fixture
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads, server.block_on_close = True, False
    server.wait_s, server.keys = 0.02, []
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    server.url = f"http://127.0.0.1:{server.server_address[1]}"
    yield server
    server.shutdown()
    server.server_close()
    thread.join(5)


@pytest.fixture
def workload(tmp_path):
    path = tmp_path / "mine.jsonl"
    case = {
        "messages": [{"role": "user", "content": "Is it so?"}],
        "question": "Is it so?",
        "answers": ["yes"],
    }
    path.write_text("".join(json.dumps({"id": f"c{i}", **case}) + "\n" for i in range(40)))
    return str(path)


@pytest.fixture
def run(command):
    def run(*arguments, **env):
        clean = {k: v for k, v in os.environ.items() if k not in ("OPENAI_API_KEY", "TOKENPRUNE_API_KEY")}
        done = command("bench", "ttft", *arguments, text=True, env=clean | env)
        assert "Traceback" not in done.stderr, done.stderr
        return done

    return run


def test_a_run(server, workload, tmp_path, run, command):
    out = tmp_path / "a" / "report"
    arguments = ["--direct", server.url, "--proxy", f"{server.url}/v1", "--workload", workload, "--out", out]
    done = run(
        *arguments, "--limit", 3, "--goodput", "ttft:500 e2el:900", "--api-key", "sesame", COLUMNS="160"
    )
    assert done.returncode == 0, done.stderr
    report = json.loads((out / "report.json").read_text())
    assert report["pairs"] == 3 and report["direct"]["request_goodput"] > 0
    assert report["quality"]["pruned"]["em"] == 1
    assert set(server.keys) == {"Bearer sesame"}
    for name in ("report.json", "report.html", "rows.jsonl"):
        assert "sesame" not in (out / name).read_text()
    assert "bench ttft" in report["command"] and "--api-key ..." in report["command"]
    assert "TTFT median, ms" in done.stdout and str(out / "report.html") in done.stdout
    rows = [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]
    assert [r["ttft_ms"] for r in rows] == [r["ttft_ms"] for r in report["rows"]]
    served = len(server.keys)
    done = command("bench", "report", out, "--out", tmp_path / "b", text=True)
    assert done.returncode == 0 and "TTFT median, ms" in done.stdout, done.stderr
    assert json.loads((tmp_path / "b" / "report.json").read_text()) == report and len(server.keys) == served
    done = command("bench", "report", out, out, text=True)
    assert done.returncode == 2 and "--out DIR" in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_ctrl_c_reports_what_was_measured(server, workload, tmp_path):
    server.wait_s, out = 0.1, tmp_path / "out"
    command = [COMMAND, "bench", "ttft", "--direct", server.url, "--proxy", server.url]
    command += ["--workload", workload, "--out", str(out)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    rows, deadline = out / "rows.jsonl", time.monotonic() + 120
    while not (rows.exists() and rows.read_text().count("\n") >= 5):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    shown, errors = process.communicate(timeout=120)
    assert process.returncode == 1 and "interrupted" in errors and "Traceback" not in errors
    report = json.loads((out / "report.json").read_text())
    assert report["interrupted"] and 2 <= report["pairs"] < 40
    assert len(report["rows"]) == len(rows.read_text().splitlines()) < 80
    assert "of 80 planned requests" in shown and (out / "report.html").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_ctrl_c_before_anything_was_measured(server, workload, tmp_path):
    server.wait_s = 60
    command = [COMMAND, "bench", "ttft", "--direct", server.url, "--proxy", server.url]
    command += ["--workload", workload, "--out", str(tmp_path / "out")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not server.keys:  # the first request of the warm-up is under way
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    shown, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and shown == ""
    assert errors == "tokenprune: interrupted before anything was measured\n"


def test_what_goes_wrong_is_said(server, workload, tmp_path, run):
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{sock.getsockname()[1]}"
    given = ["--workload", workload, "--out", tmp_path]
    done = run("--direct", server.url, "--proxy", closed, *given)
    assert done.returncode == 1 and f"cannot reach {closed}/v1/models: Connection refused" in done.stderr
    assert "ssl" not in done.stderr
    done = run("--direct", server.url, "--proxy", server.url, "--workload", workload, "--out", workload)
    assert done.returncode == 1 and f"cannot write the report to {workload}: File exists" in done.stderr
    assert not server.keys
    done = run(
        "--direct", server.url, "--proxy", server.url, "--workload", "no-such-workload", "--out", tmp_path
    )
    assert done.returncode == 1 and "no-such-workload" in done.stderr


@pytest.mark.parametrize(
    "wrong",
    [
        ["--rate", "2", "--concurrency", "2"],
        ["--rate", "0"],
        ["--goodput", "itl:5"],
        ["--cache", "lukewarm"],
        ["--rounds", "0"],
        ["--timeout", "0"],
    ],
)
def test_usage_errors(run, wrong):
    done = run("--direct", "http://h", "--proxy", "http://h", "--workload", "w", "--out", "o", *wrong)
    assert done.returncode == 2 and wrong[0] in done.stderr and "Value error" not in done.stderr


def test_help_has_examples(run):
    done = run("--help")
    assert done.returncode == 0 and "tokenprune bench ttft --direct http://localhost:8000" in done.stdout


def test_the_key_is_not_in_the_command():
    assert (
        command_line(["/x/tokenprune", "bench", "--api-key", "k", "a b"])
        == "tokenprune bench --api-key ... 'a b'"
    )
    assert command_line(["t", "--api-key=k"]) == "tokenprune --api-key=..."
    shown = command_line(["t", "--direct", "http://me:secret@host:1/v1", "--proxy=https://u:p@h"])
    assert shown == "tokenprune --direct http://...@host:1/v1 --proxy=https://...@h"
