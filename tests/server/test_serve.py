"""``tokenprune serve`` as a user calls it."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading

import httpx
import pytest
from typer.testing import CliRunner

from tokenprune.cli.main import app

READY = re.compile(r"tokenprune is ready: (http://[^/]+)/v1")


def run(*arguments):
    return CliRunner().invoke(app, ["serve", *arguments])


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--upstream", "http://127.0.0.1:1", "--embedded"],
        ["--upstream", "http://127.0.0.1:1", "smollm2-135m"],
        ["smollm2-135m"],
        ["--upstream", "http://127.0.0.1:1", "--served-model-name", "x"],
        ["--upstream", "http://127.0.0.1:1", "--port", "99999"],
        ["--upstream", "http://127.0.0.1:1", "--log-level", "loud"],
    ],
)
def test_usage_errors(arguments):
    result = run(*arguments)
    assert result.exit_code == 2, result.output


def test_help_has_examples():
    result = run("--help")
    assert result.exit_code == 0
    assert "tokenprune serve --upstream http://localhost:8000" in result.output
    assert "--embedded" in result.output
    examples = [
        line.strip() for line in result.output.splitlines() if line.strip().startswith("tokenprune serve")
    ]
    assert len(examples) == 4


def test_an_unknown_default_pipeline_is_refused_at_the_start(tmp_path):
    config = tmp_path / "tokenprune.yaml"
    config.write_text("server:\n  pipeline: magic\n")
    result = run("--port", "0", "--upstream", "http://127.0.0.1:1", "--config", str(config))
    assert result.exit_code == 1
    for word in ("server.pipeline", "'magic'", "default", "bm25-sentences"):
        assert word in result.stderr


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--upstream", "nonsense"], "nonsense"),
        (["--upstream", "http://127.0.0.1:1", "--config", "missing.yaml"], "missing.yaml"),
        (["--embedded", "no-such-model"], "no-such-model"),
        (["--upstream", "http://127.0.0.1:1", "--host", "203.0.113.1"], "203.0.113.1"),
    ],
)
def test_failures_are_one_line_and_exit_1(arguments, word):
    result = run("--port", "0", *arguments)
    assert result.exit_code == 1
    lines = [line for line in result.stderr.splitlines() if line]
    assert len(lines) == 1
    assert word in lines[0]


def test_a_model_that_chooses_tokens_and_is_not_there_ends_the_start(tmp_path):
    config = tmp_path / "tokenprune.yaml"
    config.write_text("server: {pipeline: none, tokens: {model: smolm2-135m}}")
    result = run("--port", "0", "--upstream", "http://127.0.0.1:1", "--config", str(config))
    assert result.exit_code == 1
    (line,) = (line for line in result.stderr.splitlines() if line)
    assert "server.tokens.model: unknown model 'smolm2-135m'" in line
    assert "smollm2-135m" in line


def test_port_in_use():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        result = run("--upstream", "http://127.0.0.1:1", "--port", str(sock.getsockname()[1]))
    assert result.exit_code == 1
    assert "cannot listen" in result.stderr


@pytest.fixture
def start():
    processes, readers = [], []
    # A worker of xdist ignores interrupts, and a process begins with what its parent ignores.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def launch(*arguments) -> tuple[subprocess.Popen, str]:
        command = [sys.executable, "-m", "tokenprune", "serve", "--port", "0", *arguments]
        environment = os.environ | {"HF_HUB_OFFLINE": "1"}
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        processes.append(process)
        for line in process.stderr:
            if found := READY.search(line):
                # Nobody reads on: a full pipe would stop the server.
                readers.append(threading.Thread(target=process.stderr.read, daemon=True))
                readers[-1].start()
                return process, found.group(1)
        raise AssertionError("the server ended before it was ready")

    yield launch
    signal.signal(signal.SIGINT, before)
    for process in processes:
        process.send_signal(signal.SIGINT)
        process.wait(15)
    for reader in readers:
        reader.join(5)
    for process in processes:
        process.stderr.close()


def test_proxy_of_a_real_process(start, stub, tmp_path):
    config = tmp_path / "tokenprune.yaml"
    config.write_text("server:\n  min_document_tokens: 20\n")
    _, url = start("--upstream", f"{stub.url}/v1", "--config", str(config))
    document = "\n\n".join(["The market sells bells and hats."] * 20 + ["The lighthouse was built in 1871."])
    prompt = f"Context:\n{document}\n\nQuestion: When was the lighthouse built?"
    body = {"model": "m", "messages": [{"role": "user", "content": prompt}]}
    body["tokenprune"] = {"method": "bm25-sentences", "max_tokens": 40}
    response = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60)
    assert response.headers["x-tokenprune-decision"] == "pruned"
    said = json.loads(stub.last.body)["messages"][0]["content"]
    assert "The lighthouse was built in 1871." in said
    assert said.endswith("\n\nQuestion: When was the lighthouse built?")
    assert int(response.headers["x-tokenprune-tokens-after"]) <= 40
    assert httpx.get(f"{url}/playground").status_code == 200


def test_ends_quietly_on_interrupt(start, stub):
    process, url = start("--upstream", stub.url)
    assert httpx.get(f"{url}/healthz").status_code == 200
    process.send_signal(signal.SIGINT)
    assert process.wait(15) in (0, 1, 130, -signal.SIGINT)


@pytest.mark.models
@pytest.mark.parametrize(
    "arguments", [["--embedded"], ["--embedded", "smollm2-135m", "--served-model-name", "tiny"]]
)
def test_embedded(warm_python, arguments):
    process = warm_python.start("tokenprune", "serve", "--port", "0", *arguments)
    try:
        url = process.url()
        name = "tiny" if "tiny" in arguments else "smollm2-135m"
        assert httpx.get(f"{url}/v1/models").json()["data"][0]["id"] == name
        body = {"model": name, "max_tokens": 4, "messages": [{"role": "user", "content": "Say hello."}]}
        response = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=120)
        assert response.status_code == 200
        assert response.headers["x-tokenprune-decision"] == "skipped:below-min-tokens"
        assert response.json()["usage"]["completion_tokens"] <= 4
    finally:
        process.interrupt()
