"""Long work that looks whether anybody waits for it."""

import time

from tokenprune.given_up import GivenUpError, look


def is_given_up(seconds):
    """Whether the work of this thread is given up before the time is over."""
    deadline = time.monotonic() + seconds
    try:
        while time.monotonic() < deadline:
            look()
            time.sleep(0.02)
    except GivenUpError:
        return True
    return False
