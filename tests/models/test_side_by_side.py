"""Batches that are computed side by side, each by one thread."""

import os
import threading

import pytest

torch = pytest.importorskip("torch")

from tokenprune.models.labeler.labeler import Labeler  # noqa: E402
from tokenprune.models.labeler.types import Passage  # noqa: E402
from tokenprune.models.side_by_side import side_by_side  # noqa: E402


@pytest.fixture
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_each_batch_is_alone_on_its_thread_and_the_caller_keeps_its_own(three_threads):
    together = threading.Barrier(3, timeout=30)

    def run(number):
        together.wait()  # so all three run at once
        return number, torch.get_num_threads(), threading.current_thread().name

    found = list(side_by_side(run, [5, 6, 7]))
    assert [number for number, _, _ in found] == [5, 6, 7]
    assert {threads for _, threads, _ in found} == {1}
    assert len({name for _, _, name in found}) == 3
    assert torch.get_num_threads() == 3
    later = []
    thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert later == [3], "threads that come later begin with as many as before"


def test_one_batch_has_all_threads(three_threads):
    assert list(side_by_side(lambda _: torch.get_num_threads(), [0])) == [3]
    assert list(side_by_side(lambda _: torch.get_num_threads(), [])) == []


def test_an_error_reaches_the_caller(three_threads):
    def run(number):
        raise ValueError(f"batch {number}")

    with pytest.raises(ValueError, match="batch 0"):
        list(side_by_side(run, [0, 1]))


def test_labels_are_those_of_one_thread(three_threads):
    labeler = Labeler.load("provence-mini", device="cpu", dtype="float32")
    assert labeler.lone_batches
    passages = [Passage(f"The tower of town {n} was built in {1800 + n}. " * (1 + n % 5)) for n in range(40)]
    many = labeler.label("When was the tower of town 7 built?", passages)
    torch.set_num_threads(1)
    one = labeler.label("When was the tower of town 7 built?", passages)
    for a, b in zip(many, one, strict=True):
        assert a.rank == pytest.approx(b.rank, abs=1e-4)
        assert a.keep == pytest.approx(b.keep, abs=1e-4)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_makes_threads_of_its_own(three_threads):
    """Threads do not live on in a child: with those of the parent it would wait for ever."""
    assert list(side_by_side(lambda n: n, [1, 2])) == [1, 2]
    child = os.fork()
    if child == 0:
        os._exit(0 if list(side_by_side(lambda n: n, [3, 4])) == [3, 4] else 1)
    assert os.waitpid(child, 0)[1] == 0
