"""Figures of reports: drawn in one style, which nothing outside of them sees."""

import subprocess
import sys

import pytest

pytest.importorskip("matplotlib")

_DRAW = """
import matplotlib
before = matplotlib.rcParams.copy()
from tokenprune.bench import figures, plots
from tokenprune.bench.tradeoff import Row
from tokenprune.bench.tradeoff_report import _plots

@figures.styled
def draw():
    figure, axes = figures.subplots(1, 2, figsize=(4, 2), sharey=True)
    assert matplotlib.rcParams["font.size"] == 9
    assert not axes[0].spines["top"].get_visible() and axes[0].xaxis.get_gridlines()[0].get_visible()
    axes[0].plot([1, 2])
    axes[1].set_title("Words")
    return figures.svg(figure)

text = draw()
assert text.startswith("<svg") and ">Words</text>" in text
rows = [Row("full", "-", 1, 1, 9, 1, None, 0), Row("tail", "5", 1, 0.5, 5, 0.5, None, 0)]
assert "<svg" in _plots(rows)
after = matplotlib.rcParams.copy()
changed = {name for name in before if before[name] != after[name]}
assert not changed, changed
import matplotlib.pyplot as plt
assert not plt.get_fignums()
assert plt.subplots()[1].spines["top"].get_visible()
"""


def test_nothing_outside_changes():
    """In a process of its own, where nobody has changed anything yet."""
    done = subprocess.run([sys.executable, "-c", _DRAW], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_style_ends_with_the_function_that_fails():
    import matplotlib

    from tokenprune.bench.figures import styled

    @styled
    def fails():
        assert matplotlib.rcParams["axes.grid"]
        raise ZeroDivisionError

    before = matplotlib.rcParams.copy()
    with pytest.raises(ZeroDivisionError):
        fails()
    assert matplotlib.rcParams.copy() == before
