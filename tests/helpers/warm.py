"""Run ``tokenprune``, code or a script in a process forked from one that has imported torch: seconds saved each.

What the process finds beside that (environment, directory, streams, exit status) is that of a new one.
"""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path


class Warm:
    """Runs commands in a folder for their streams; make one with :func:`warm`."""

    def __init__(self, process, folder):
        self._process, self._folder, self._calls = process, folder, 0

    def run(self, *args, input=b"", cwd=None, env=None, text=False):
        """Run ``tokenprune ...``, ``python -c code`` or ``python file ...``; as `subprocess.run` gives it."""
        self._calls += 1
        streams = {name: self._folder / f"{self._calls}.{name}" for name in ("stdin", "stdout", "stderr")}
        for name, path in streams.items():
            path.write_bytes(input if name == "stdin" else b"")
        call = {
            "args": [*map(str, args)],
            "cwd": str(cwd or Path.cwd()),
            "env": dict(os.environ if env is None else env),
            **{name: str(path) for name, path in streams.items()},
        }
        print(json.dumps(call), file=self._process.stdin, flush=True)
        status = int(self._process.stdout.readline())
        out, err = (streams[name].read_bytes() for name in ("stdout", "stderr"))
        if text:
            out, err = out.decode(), err.decode()
        return subprocess.CompletedProcess(call["args"], status, out, err)


@contextlib.contextmanager
def warm(folder):
    """Start the process that is forked."""
    server = Path(__file__).with_name("warm_process.py")
    with subprocess.Popen(
        [sys.executable, str(server)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "ready\n"
        yield Warm(process, folder)
        process.stdin.close()
