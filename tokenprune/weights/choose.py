"""Which single weights go: the lowest of each row, of the matrix, or n of every m that follow one another."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tokenprune.errors import RecipeError

if TYPE_CHECKING:
    import torch

_PATTERN = re.compile(r"(\d+):(\d+)")


@dataclass(frozen=True, slots=True)
class Pattern:
    """``kept`` of every ``of`` weights that follow one another in a row stay."""

    kept: int
    of: int

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """Read ``2:4``; raises RecipeError for anything that is no pattern."""
        match = _PATTERN.fullmatch(text)
        if match is None or not 0 < int(match[1]) < int(match[2]):
            raise RecipeError(f"{text!r} is no N:M pattern; write how many of how many stay, as 2:4")
        return cls(int(match[1]), int(match[2]))

    @property
    def sparsity(self) -> float:
        """Share of weights that go."""
        return 1 - self.kept / self.of

    def check(self, width: int) -> None:
        """Raise RecipeError unless rows of ``width`` divide into groups."""
        if width % self.of:
            raise RecipeError(f"rows of {width} weights do not divide into groups of {self.of}")


def lowest(score: torch.Tensor, count: int, by_row: bool) -> torch.Tensor:
    """Mark the ``count`` lowest scores of a matrix; by row every row loses as many, give or take one.

    Args:
        score: [out, in].
        count: At most out x in.
        by_row: Rank in rows.

    Returns:
        bool [out, in] with exactly ``count`` marks; of equal scores the first ones are marked.
    """
    import torch

    if not by_row:
        marks = torch.zeros(score.numel(), dtype=torch.bool)
        marks[score.flatten().sort(stable=True).indices[:count]] = True
        return marks.view_as(score)
    rows = score.shape[0]
    edges = torch.arange(rows + 1, dtype=torch.int64) * count // rows
    order = score.sort(dim=1, stable=True).indices
    goes = torch.arange(score.shape[1])[None] < edges.diff()[:, None]
    return torch.zeros_like(score, dtype=torch.bool).scatter_(1, order, goes)


def n_of_m(score: torch.Tensor, pattern: Pattern) -> torch.Tensor:
    """Mark the lowest scores of every group, bool [out, in]; raises RecipeError when groups do not fit."""
    import torch

    pattern.check(score.shape[1])
    groups = score.reshape(-1, pattern.of)
    order = groups.sort(dim=1, stable=True).indices[:, : pattern.of - pattern.kept]
    return torch.zeros_like(groups, dtype=torch.bool).scatter_(1, order, True).view_as(score)
