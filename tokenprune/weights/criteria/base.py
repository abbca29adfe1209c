"""The interface of criteria that score single weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from tokenprune.models.progress import Reporter
from tokenprune.weights.choose import Pattern
from tokenprune.weights.journal import Journal
from tokenprune.weights.statistics import InputStats

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Weights:
    """One matrix and what is known of it.

    Attributes:
        weight: float32 [out, in].
        inputs: Statistics of its input.
        gradient: Root of the sum over samples of squared gradients [out, in], or None.
    """

    weight: torch.Tensor
    inputs: InputStats
    gradient: torch.Tensor | None = None


class ElementCriterion:
    """Scores single weights; the lowest go first."""

    by_row: ClassVar[bool] = True  # weights of one output compete with each other, else those of the matrix
    needs_gram: ClassVar[bool] = False
    needs_gradient: ClassVar[bool] = False

    def score(self, at: Weights) -> torch.Tensor:
        """Return scores [out, in], float32, at least 0."""
        raise NotImplementedError


class ElementLearner:
    """Finds masks of N:M by training; what stays keeps its value."""

    needs_gradient: ClassVar[bool] = False

    def run(
        self, model: Any, windows: torch.Tensor, pattern: Pattern, reporter: Reporter, journal: Journal
    ) -> None:
        """Prune ``model`` in place.

        Args:
            model: A transformers decoder in float32.
            windows: Text to train on, int64 [n, tokens].
            pattern: N:M.
            reporter: Told of each step.
            journal: Keeps what is finished.

        Raises:
            RecipeError: The training did not work.
        """
        raise NotImplementedError
