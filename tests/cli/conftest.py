"""Running the command as a process."""

from functools import partial

import pytest


@pytest.fixture
def command(warm_python):
    """Run ``tokenprune`` with arguments; what it wrote, as `subprocess.run` gives it."""
    return partial(warm_python.run, "tokenprune")
