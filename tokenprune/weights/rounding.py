"""Shares of a whole in integers, so that their sum misses the whole by less than one."""

from __future__ import annotations


class Carry:
    """Hands out integers whose running sum follows the running sum of the exact amounts."""

    def __init__(self) -> None:
        self._exact = 0.0
        self._given = 0

    def take(self, amount: float) -> int:
        """Return the integer for the next ``amount``; what rounding left over is carried to the next one."""
        self._exact += amount
        return self.give(round(self._exact) - self._given)

    @property
    def open(self) -> float:
        """Exact amounts so far less what was given."""
        return self._exact - self._given

    def add(self, amount: float) -> None:
        """Add an exact amount without giving."""
        self._exact += amount

    def give(self, number: int) -> int:
        """Give exactly ``number``."""
        self._given += number
        return number
