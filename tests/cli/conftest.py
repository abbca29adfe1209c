"""Running the command as a process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = str(Path(sys.executable).with_name("tokenprune"))


@pytest.fixture(scope="session")
def warm_process():
    server = Path(__file__).with_name("warm_command.py")
    with subprocess.Popen(
        [sys.executable, str(server)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "ready\n"
        yield process
        process.stdin.close()


@pytest.fixture
def command(warm_process, tmp_path_factory):
    """Run ``tokenprune`` with arguments; what it wrote, as `subprocess.run` gives it.

    The process is forked from one that has imported torch, which saves seconds each time; what it finds
    beside that (environment, directory, streams, exit status) is that of a new process.
    """

    def run(*args, input=b"", cwd=None, env=None, text=False):
        folder = tmp_path_factory.mktemp("streams")
        streams = {name: folder / name for name in ("stdin", "stdout", "stderr")}
        for name, path in streams.items():
            path.write_bytes(input if name == "stdin" else b"")
        call = {
            "args": [*map(str, args)],
            "cwd": str(cwd or Path.cwd()),
            "env": dict(os.environ if env is None else env),
            **{name: str(path) for name, path in streams.items()},
        }
        print(json.dumps(call), file=warm_process.stdin, flush=True)
        status = int(warm_process.stdout.readline())
        out, err = (streams[name].read_bytes() for name in ("stdout", "stderr"))
        if text:
            out, err = out.decode(), err.decode()
        return subprocess.CompletedProcess([COMMAND, *call["args"]], status, out, err)

    return run
