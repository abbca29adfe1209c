"""Servers that a benchmark or a test starts for itself: a real vLLM here, and our proxy in front of it."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tokenprune.errors import MeasureError

_START_S = 300


@contextlib.contextmanager
def vllm(folder: str, log: Path, *options: str) -> Iterator[str]:
    """Serve a model under the name ``model`` until the block ends, in float32; yield the server's URL.

    Raises:
        MeasureError: it does not answer.
    """
    measured = ("--dtype", "float32", "--no-enable-prefix-caching", "--max-model-len", "4096")
    with any_vllm(folder, log, "model", *measured, *options) as url:
        yield url


@contextlib.contextmanager
def any_vllm(
    folder: str, log: Path, name: str, *options: str, env: Mapping[str, str] | None = None
) -> Iterator[str]:
    """Serve a model under a name, with options and variables of the environment; yield the server's URL.

    Raises:
        MeasureError: it does not answer.
    """
    command = ["-m", "vllm.entrypoints.openai.api_server", "--model", folder, "--served-model-name", name]
    port = free_port()
    command += ["--enforce-eager", *options, "--host", "127.0.0.1", "--port", str(port)]
    with _running(command, port, log, env or {}):
        yield f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def proxy(upstream: str, config: Path, log: Path) -> Iterator[str]:
    """Run ``tokenprune serve`` in front of a server until the block ends; yield its URL.

    Raises:
        MeasureError: it does not answer.
    """
    port = free_port()
    command = ["-c", "from tokenprune.cli.main import main; main()", "serve"]
    command += ["--upstream", f"{upstream}/v1", "--config", str(config)]
    with _running([*command, "--port", str(port)], port, log, {}):
        yield f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def _running(arguments: Sequence[str], port: int, log: Path, env: Mapping[str, str]) -> Iterator[None]:
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "2"}
    environment.pop("OMP_NUM_THREADS", None)
    environment |= env
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, *arguments], stdout=file, stderr=file, env=environment, start_new_session=True
        )
    try:
        deadline = time.monotonic() + _START_S
        while True:
            with (
                contextlib.suppress(OSError),
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2),
            ):
                break
            if process.poll() is not None or time.monotonic() > deadline:
                raise MeasureError(
                    f"a server (python {' '.join(arguments[:4])} ...) did not start; see {log}"
                )
            time.sleep(0.5)
        yield
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


def free_port() -> int:
    """Return a port of the loopback that nothing listens at."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
