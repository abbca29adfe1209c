"""Work on the rows of a prompt in pieces: side by side on the cores of a CPU, in turn elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from tokenprune.models.side_by_side import side_by_side

if TYPE_CHECKING:
    import torch

T = TypeVar("T")


def in_pieces(
    run: Callable[[T], None],
    pieces: Sequence[T],
    device: torch.device,
    check: Callable[[], None] | None = None,
) -> None:
    """Call ``run`` with each piece; those of a CPU run at once, each by one thread.

    Matrix products of a few hundred rows go a third faster so than with all threads at each of them. Where
    half of the threads would have no piece, pieces run in turn, with all threads.

    Args:
        run: works on a piece, without gradients; pieces do not depend on each other.
        pieces: in the order in which they begin.
        device: where the work is done.
        check: called behind each piece; raises to stop, and leaves some pieces undone.
    """
    import torch

    def alone(piece: T) -> None:
        with torch.inference_mode():  # a thread's own
            run(piece)

    lone = device.type == "cpu" and 2 * len(pieces) > torch.get_num_threads()
    for _ in side_by_side(alone, pieces) if lone else map(run, pieces):
        if check is not None:
            check()


def row_pieces(rows: int, most: int, least: int, device: torch.device) -> list[slice]:
    """Cut rows into like pieces of at most ``most``, for all threads where each gets ``least`` or more."""
    import torch

    count = -(-rows // most)
    threads = torch.get_num_threads() if device.type == "cpu" else 1
    if rows >= threads * least:
        count = -(-count // threads) * threads
    size = max(1, -(-rows // max(1, count)))
    return [slice(first, min(first + size, rows)) for first in range(0, rows, size)]
