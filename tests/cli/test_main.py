"""What holds for every command."""

import os
import subprocess
import sys

import pytest

CODE = """
import os, sys
from tokenprune.cli.main import main
assert not {"torch", "numpy"} & set(sys.modules), "they have read the variables before the command sets them"
sys.argv = ["tokenprune", "--version"]
try:
    main()
finally:
    print(os.environ["OMP_WAIT_POLICY"], os.environ["OPENBLAS_NUM_THREADS"])
"""


@pytest.mark.parametrize(
    ("given", "held"),
    [
        ({}, ["passive", "1"]),
        ({"OMP_WAIT_POLICY": "active", "OPENBLAS_NUM_THREADS": "2"}, ["active", "2"]),
    ],
)
def test_threads_hold_no_cores_they_do_not_need_unless_asked_to(given, held):
    names = ("OMP_WAIT_POLICY", "OPENBLAS_NUM_THREADS")
    environment = {k: v for k, v in os.environ.items() if k not in names} | given
    done = subprocess.run([sys.executable, "-c", CODE], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-2:] == held
