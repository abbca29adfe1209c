"""Python, run again and again as a real process that has its libraries imported already.

Importing torch and transformers for each call takes longer than most calls do. This process imports them once
and forks for each line of its input that is a JSON object: arguments, environment, working directory and the
files that stand for the three streams; it answers with the process id. A line that is such an id is answered
with the exit status once that process has ended. `warm.Warm` talks to it.
"""

import atexit
import gc
import importlib
import json
import os
import pkgutil
import runpy
import signal
import sys
import traceback
import types
from pathlib import Path

import bs4
import matplotlib.figure
import sentence_transformers
import torch
import transformers
from transformers import AutoTokenizer, BertModel, LlamaForCausalLM, PreTrainedTokenizerFast

import tokenprune
import tokenprune_server.app
from tokenprune.cli.main import main
from tokenprune.tokens import get_counter

PRELOADED = (
    bs4,
    AutoTokenizer,
    BertModel,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    matplotlib,
    sentence_transformers,
    torch,
    transformers,
    tokenprune_server,
)
PACKAGES = ("bench", "cli", "engine", "models", "pruners", "render", "score", "segment", "select")


def preload():
    """Import what commands use, and read what comes with the package; no model, nothing that may change."""
    for package in PACKAGES:
        folder = importlib.import_module(f"tokenprune.{package}")
        for module in pkgutil.walk_packages(folder.__path__, f"{folder.__name__}."):
            importlib.import_module(module.name)
    tokenprune.list_pruners()
    get_counter()


def become(call):
    """Take over what a new process would have been started with."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a worker of pytest-xdist ignores it
    for number, (name, mode) in enumerate(
        (("stdin", os.O_RDONLY), ("stdout", os.O_WRONLY), ("stderr", os.O_WRONLY))
    ):
        os.dup2(os.open(call[name], mode), number)
    sys.stdin = os.fdopen(0, encoding="utf-8")
    sys.stdout, sys.stderr = os.fdopen(1, "w", encoding="utf-8"), os.fdopen(2, "w", encoding="utf-8")
    os.environ.clear()
    os.environ.update(call["env"])
    os.chdir(call["cwd"])
    sys.argv = call["args"]


def serve():
    """Fork for each call; returns in the forked processes alone."""
    while line := sys.stdin.readline():
        asked = json.loads(line)
        if isinstance(asked, int):
            print(os.waitstatus_to_exitcode(os.waitpid(asked, 0)[1]), flush=True)
        elif pid := os.fork():
            print(pid, flush=True)
        else:
            return become(asked)
    os._exit(0)


def start():
    """Run what `sys.argv` says: ``tokenprune ...``, ``python -c code`` or ``python file ...``."""
    program = sys.argv[0]
    if program == "tokenprune":
        main()
    elif sys.argv[1] == "-c":
        code = sys.argv[2]
        sys.argv[:3] = ["-c"]
        sys.path[0] = ""
        sys.modules["__main__"] = module = types.ModuleType("__main__")
        exec(compile(code, "<string>", "exec"), module.__dict__)
    else:
        del sys.argv[0]
        sys.path[0] = str(Path(sys.argv[0]).resolve().parent)
        runpy.run_path(sys.argv[0], run_name="__main__")


def run():
    """Run the call; the exit status. What an interpreter does at its end takes seconds after torch."""
    status = None
    try:
        start()
    except SystemExit as ended:
        status = ended.code
    except BaseException:
        traceback.print_exc()
        status = 1
    if isinstance(status, str):
        print(status, file=sys.stderr)
        status = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return status or 0


if __name__ == "__main__":
    preload()
    gc.freeze()  # no collection in the children looks at what is here
    print("ready", flush=True)
    serve()
    os._exit(run())
