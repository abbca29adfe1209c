"""Work in pieces, side by side where there are enough of them."""

import threading

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tokenprune.engine.pieces import in_pieces, row_pieces

CPU = torch.device("cpu")


@given(st.integers(0, 5000), st.integers(1, 900), st.integers(1, 300))
def test_rows_are_covered_once_and_in_order(rows, most, least):
    pieces = row_pieces(rows, most, least, CPU)
    assert [row for piece in pieces for row in range(piece.start, piece.stop)] == list(range(rows))
    sizes = [piece.stop - piece.start for piece in pieces]
    assert all(0 < size <= most for size in sizes)


def test_each_thread_gets_a_piece_where_it_is_worth_it(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    assert len(row_pieces(4 * 128, 1000, 128, CPU)) == 4
    assert len(row_pieces(4 * 128 - 1, 1000, 128, CPU)) == 1
    assert len(row_pieces(4500, 1000, 128, CPU)) == 8


def test_an_accelerator_takes_as_many_as_fit():
    assert row_pieces(100, 1000, 1, torch.device("meta")) == [slice(0, 100)]


@pytest.mark.parametrize("count", [1, 2, 7])
def test_every_piece_is_run(count):
    out = torch.zeros(count)

    def run(piece):
        out[piece] += piece + 1

    checked = []
    in_pieces(run, range(count), CPU, lambda: checked.append(1))
    assert out.tolist() == [n + 1 for n in range(count)]
    assert len(checked) == count


@pytest.mark.skipif(torch.get_num_threads() < 2, reason="needs two threads")
def test_pieces_run_at_once_each_by_one_thread():
    meet = threading.Barrier(2)
    threads = []

    def run(_):
        meet.wait(10)  # breaks if they run in turn
        threads.append(torch.get_num_threads())

    in_pieces(run, range(2), CPU)
    assert threads == [1, 1]


@pytest.mark.parametrize("count", [1, 8])
def test_what_a_piece_or_a_check_raises_comes_out(count):
    def bad(piece):
        raise ArithmeticError(piece)

    with pytest.raises(ArithmeticError):
        in_pieces(bad, range(count), CPU)

    def stop():
        raise TimeoutError

    with pytest.raises(TimeoutError):
        in_pieces(lambda piece: None, range(count), CPU, stop)
