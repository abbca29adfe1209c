"""What vision methods read and return: the patch tokens of one picture or video, and what is left of them."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import TYPE_CHECKING, cast

from tokenprune.errors import BudgetError, VisionError

if TYPE_CHECKING:
    import torch

_EPSILON = 1e-9  # 0.29 * 100 is 28.999...
# Python reads more than people mean: "1_0", "nan", digits of other scripts.
_ROWS = re.compile(r"[0-9]{1,18}")
_SHARE = re.compile(r"((?:[0-9]{1,18}(?:\.[0-9]{0,30})?|\.[0-9]{1,30})(?:[eE][+-]?[0-9]{1,3})?)(%?)")


@dataclass(frozen=True, eq=False)
class VisualTokens:
    """The tokens of one image or one video, in the order the language model reads them.

    Attributes:
        features: float [n, d], behind the projector: what the language model reads.
        frame: int64 [n], frame of each token, from 0; all 0 for an image without ``views``.
        row: int64 [n], row in the patch grid.
        col: int64 [n], column in the patch grid.
        grid: frames, rows and columns of the whole grid.
        received: float [n], attention a patch gets in one layer of the vision encoder, mean over heads and
            queries (a CLS token's query included, where there is one).
        cls: float [n], attention the CLS token's query pays to a patch in that layer, mean over heads; None
            for encoders without a CLS token.
        keys: float [n, k], keys of that layer, heads side by side.
        heads: heads in ``keys``.
        views: rows and columns of each frame, where the frames are views of one picture (all of it, then its
            tiles put together) instead of moments of a video. They differ in size, so that the grid, which
            is as large as the largest, has places without a token. (): no views.

    Raises:
        VisionError: shapes that do not belong together, or no tokens.
    """

    features: torch.Tensor
    frame: torch.Tensor
    row: torch.Tensor
    col: torch.Tensor
    grid: tuple[int, int, int]
    received: torch.Tensor | None = None
    cls: torch.Tensor | None = None
    keys: torch.Tensor | None = None
    heads: int = 1
    views: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        if self.features.ndim != 2 or not all(self.features.shape):
            raise VisionError(f"features must be [tokens, size], none of them 0, not {_shape(self.features)}")
        n = len(self.features)
        for name in ("frame", "row", "col", "received", "cls"):
            value = getattr(self, name)
            if value is not None and tuple(value.shape) != (n,):
                raise VisionError(f"{name} must hold one number for each of {n} tokens, not {_shape(value)}")
        if self.keys is not None and (
            self.keys.ndim != 2 or len(self.keys) != n or self.keys.shape[1] % max(1, self.heads)
        ):
            raise VisionError(f"keys must be [{n}, {self.heads} heads x size], not {_shape(self.keys)}")
        if len(self.grid) != 3 or min(self.grid) < 1 or math.prod(self.grid) < n:
            raise VisionError(f"a grid of {self.grid} (frames, rows, columns) cannot hold {n} tokens")
        if self.views and (len(self.views) != self.grid[0] or sum(map(math.prod, self.views)) != n):
            raise VisionError(
                f"views of {self.views} (rows, columns) are not {n} tokens in {self.grid[0]} frames"
            )

    @classmethod
    def from_grid(
        cls,
        features: torch.Tensor,
        grid: tuple[int, int, int] | Sequence[tuple[int, int]],
        *,
        received: torch.Tensor | None = None,
        cls_attention: torch.Tensor | None = None,
        keys: torch.Tensor | None = None,
        heads: int = 1,
    ) -> VisualTokens:
        """Give tokens of a whole grid, frame by frame (or view by view) and row by row, their positions.

        Args:
            features: float [places of the grid, d].
            grid: frames, rows and columns; or, of views of one picture, rows and columns of each.
            received: see the class.
            cls_attention: ``cls`` of the class.
            keys: see the class.
            heads: see the class.

        Raises:
            VisionError: a grid without places, or with others than there are tokens.
        """
        import torch

        views = tuple(one for one in grid if not isinstance(one, int))
        sizes = list(views)
        if grid and not views:
            frames, rows, cols = cast(tuple[int, int, int], grid)
            sizes = [(rows, cols)] * frames
        count = sum(map(math.prod, sizes))
        if not sizes or min(map(min, sizes)) < 1 or features.ndim != 2 or len(features) != count:
            raise VisionError(f"a grid of {grid} needs {count or 'some'} tokens, not {_shape(features)}")
        place = torch.cat(
            [
                torch.cartesian_prod(torch.tensor([number]), torch.arange(high), torch.arange(wide))
                for number, (high, wide) in enumerate(sizes)
            ]
        )
        frame, row, col = place.T.contiguous().to(features.device)
        whole = (len(sizes), max(high for high, _ in sizes), max(wide for _, wide in sizes))
        several = views if len(views) > 1 else ()
        return cls(features, frame, row, col, whole, received, cls_attention, keys, heads, several)

    def __len__(self) -> int:
        return len(self.features)

    @property
    def moments(self) -> int:
        """How many moments of a video there are; 1 for an image, however many views of it."""
        return 1 if self.views else self.grid[0]

    @property
    def whole(self) -> bool:
        """Whether every place of the grid has its token; then they stand frame by frame, row by row."""
        return len(self) == math.prod(self.grid)


@dataclass(frozen=True, eq=False)
class Reduced:
    """What a method leaves.

    Attributes:
        features: float [m, d], in the number format of the input.
        keep: int64 [m], ascending: the place each row had among the tokens. A merged row stands where its
            centre stood.
        into: int64 [n], for each token the row it went into, -1: dropped.
        scores: float [n], what the decision was made by, higher is better; None where it was no score.
    """

    features: torch.Tensor
    keep: torch.Tensor
    into: torch.Tensor
    scores: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.keep)

    @property
    def merged(self) -> torch.Tensor:
        """Which rows took in other tokens, bool [m]."""
        import torch

        return torch.bincount(self.into[self.into >= 0], minlength=len(self)) > 1


def parse_keep(keep: object) -> int | float | None:
    """Read a budget as people give it: the one place for options, settings, headers and arguments.

    Args:
        keep: rows (49), a share (0.25, 1.0), either as text, a share in percent as text ("25%"), or None or
            "auto" for the method's own. 1 is one row, 1.0 and "100%" are all of them.

    Returns:
        Rows as an int from 1, a share as a float above 0 and up to 1, or None.

    Raises:
        BudgetError: none of these.
    """
    value = keep
    if isinstance(keep, str):
        text = keep.strip()
        found = _SHARE.fullmatch(text)
        if text == "auto":
            value = None
        elif _ROWS.fullmatch(text):
            value = int(text)
        elif found:
            value = float(found[1]) / (100 if found[2] else 1)
    if value is None:
        return None
    if isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= 1:
        return int(value)
    if isinstance(value, Real) and not isinstance(value, Integral) and 0 < float(value) <= 1:
        return float(value)
    raise BudgetError(
        "keep must leave something: a number of rows from 1, a share above 0 and up to 1 (0.25, 25%), or "
        f"auto where the method has its own number; not {keep!r}"
    )


def rows_of(keep: int | float, n: int) -> int:
    """Return how many of ``n`` tokens a budget means: at least 1, at most ``n``.

    Args:
        keep: rows (an int), or a share of the tokens above 0 and up to 1 (a float), rounded down.
        n: tokens there are.

    Raises:
        BudgetError: neither of the two.
    """
    budget = parse_keep(keep)
    if budget is None:
        raise BudgetError("a budget is needed here: give keep, rows or a share")
    return min(budget, n) if isinstance(budget, int) else max(1, int(budget * n + _EPSILON))


def _shape(value: torch.Tensor) -> str:
    return f"[{', '.join(map(str, value.shape))}]"
