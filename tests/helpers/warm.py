"""Run ``tokenprune``, code or a script in a process forked from one that has imported torch: seconds saved each.

What the process finds beside that (environment, directory, streams, exit status) is that of a new one.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import httpx


class Warm:
    """Runs commands, in a folder for their streams; make one with :func:`warm`."""

    def __init__(self, process, folder):
        self._process, self._folder, self._calls = process, folder, 0

    def ask(self, line):
        """Send a line, a JSON value; the number that is the answer."""
        print(json.dumps(line), file=self._process.stdin, flush=True)
        return int(self._process.stdout.readline())

    def start(self, *args, input=b"", cwd=None, env=None):
        """Start ``tokenprune ...``, ``python -c code`` or ``python file ...``."""
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
        return Started(self, self.ask(call), call)

    def run(self, *args, text=False, **how):
        """Start something and wait for its end; what it wrote, as `subprocess.run` gives it."""
        process = self.start(*args, **how)
        status, out, err = process.wait(), process.read("stdout"), process.read("stderr")
        if text:
            out, err = out.decode(), err.decode()
        return subprocess.CompletedProcess([*args], status, out, err)


@dataclass
class Started:
    """A process that runs: its id, and what it was started with."""

    owner: Warm
    pid: int
    call: dict

    def read(self, name):
        """What it has written so far to ``stdout`` or ``stderr``."""
        return Path(self.call[name]).read_bytes()

    def url(self, *, warmed_up=False, seconds=120):
        """Where ``tokenprune serve`` says that it listens, perhaps once it has warmed up."""
        deadline = time.monotonic() + seconds
        while True:
            said = self.read("stderr").decode()
            found = re.search(r"tokenprune is ready: (http://[^/]+)/v1", said)
            if found and (not warmed_up or httpx.get(f"{found[1]}/readyz").status_code == 200):
                return found[1]
            assert time.monotonic() < deadline, said
            time.sleep(0.05)

    def interrupt(self):
        """End it as Ctrl-C does; its exit status."""
        os.kill(self.pid, signal.SIGINT)
        return self.wait()

    def wait(self):
        """Its exit status, once it has ended; to be called once."""
        return self.owner.ask(self.pid)


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
