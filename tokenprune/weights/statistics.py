"""What one streaming pass remembers of the inputs of a matrix."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@dataclass(slots=True)
class InputStats:
    """Sums over tokens of an input of ``width`` dimensions; float32, or float64 for the plain sums.

    Attributes:
        width: Dimensions.
        with_gram: Also sum X X^T, which takes ``width`` squared numbers.
        count: Tokens seen.
        total: Sum of x, float64 [width].
        squares: Sum of x squared, float64 [width].
        gram: Sum of x x^T, float32 [width, width], or None.
    """

    width: int
    with_gram: bool = False
    count: int = 0
    total: torch.Tensor = field(init=False)
    squares: torch.Tensor = field(init=False)
    gram: torch.Tensor | None = field(init=False)

    def __post_init__(self) -> None:
        import torch

        self.total = torch.zeros(self.width, dtype=torch.float64)
        self.squares = torch.zeros(self.width, dtype=torch.float64)
        self.gram = torch.zeros(self.width, self.width) if self.with_gram else None

    def add(self, x: torch.Tensor) -> None:
        """Add inputs [tokens, width]."""
        x = x.detach().float().cpu()
        self.count += x.shape[0]
        self.total += x.sum(0).double()
        self.squares += x.square().sum(0).double()
        if self.gram is not None:
            self.gram.addmm_(x.T, x)

    def plain(self) -> dict[str, Any]:
        """Return the plain sums, without the gram matrix, for a checkpoint."""
        return {"width": self.width, "count": self.count, "total": self.total, "squares": self.squares}

    @classmethod
    def of_plain(cls, plain: Mapping[str, Any]) -> InputStats:
        """Read what `plain` gave."""
        found = cls(plain["width"], count=plain["count"])
        found.total, found.squares = plain["total"], plain["squares"]
        return found

    @property
    def mean(self) -> torch.Tensor:
        """E[x], float32 [width]."""
        return (self.total / max(self.count, 1)).float()

    @property
    def mean_square(self) -> torch.Tensor:
        """E[x^2], float32 [width]; ones when no token came by, so that scores fall back to the weights."""
        if not self.count:
            return self.squares.float() + 1.0
        return (self.squares / self.count).float()

    @property
    def rms(self) -> torch.Tensor:
        """sqrt(E[x^2]), float32 [width]."""
        return self.mean_square.sqrt()

    @property
    def variance(self) -> torch.Tensor:
        """Unbiased variance, float32 [width]."""
        if self.count < 2:
            return self.mean_square
        spread = self.squares - self.total.square() / self.count
        return (spread.clamp_min(0) / (self.count - 1)).float()
