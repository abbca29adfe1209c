"""A reporter that stops a run, as Ctrl-C or a full disk would."""


class Stop(Exception):
    pass


class Stopper:
    """Stops a run at its n-th step, for each n of ``at``; counts the steps in ``done``."""

    def __init__(self, *at):
        self.at, self.done = at, 0

    def stage(self, label, total): ...

    def update(self, done, total=None): ...

    def advance(self, amount):
        self.done += 1
        if self.done in self.at:
            self.stop()

    def stop(self):
        raise Stop
