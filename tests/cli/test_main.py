"""What holds for every command."""

import os
import subprocess
import sys

import pytest

CODE = """
import os, sys
from tokenprune.cli.main import main
assert "torch" not in sys.modules, "OpenMP has read its variables before the command sets them"
sys.argv = ["tokenprune", "--version"]
try:
    main()
finally:
    print(os.environ["OMP_WAIT_POLICY"])
"""


@pytest.mark.parametrize(("given", "held"), [(None, "passive"), ("active", "active")])
def test_threads_of_torch_do_not_spin_unless_asked_to(given, held):
    environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
    environment |= {"OMP_WAIT_POLICY": given} if given else {}
    done = subprocess.run([sys.executable, "-c", CODE], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == held
