"""Keys and values per layer: layers may hold different tokens, each entry knows its position."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_ROOM = 64  # entries allocated beyond those asked for first: the answer begins there


class KVMeter:
    """Counts bytes of keys and values that are allocated at the same time."""

    def __init__(self) -> None:
        """Start at zero."""
        self.now = 0
        self.peak = 0

    def add(self, size: int) -> None:
        """Count ``size`` more bytes, or fewer when negative."""
        self.now += size
        self.peak = max(self.peak, self.now)


class LayerKV:
    """Keys, values and positions of one sequence in one layer, in the order they were added.

    The arrays grow by doubling, so that a decode step copies nothing most of the time.
    """

    def __init__(
        self,
        heads: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
        meter: KVMeter,
        capacity: int = 0,
    ) -> None:
        """Start empty, with space for ``capacity`` entries of [``heads``, ``head_dim``]."""
        import torch

        self._keys = torch.empty((heads, capacity, head_dim), dtype=dtype, device=device)
        self._values = torch.empty_like(self._keys)
        self._positions = torch.empty(capacity, dtype=torch.long, device=device)
        self._meter = meter
        self._size = 0
        meter.add(self.allocated_bytes)

    def __len__(self) -> int:
        return self._size

    @property
    def keys(self) -> torch.Tensor:
        """[heads, len, head_dim], rotated; a view."""
        return self._keys[:, : self._size]

    @property
    def values(self) -> torch.Tensor:
        """[heads, len, head_dim]; a view."""
        return self._values[:, : self._size]

    @property
    def positions(self) -> torch.Tensor:
        """int64 [len], position of each entry in its sequence; a view."""
        return self._positions[: self._size]

    @property
    def bytes(self) -> int:
        """Bytes of the keys and values that are in use."""
        heads, _, head_dim = self._keys.shape
        return int(2 * heads * head_dim * self._keys.element_size() * self._size)

    @property
    def allocated_bytes(self) -> int:
        """Bytes that keys and values occupy, free entries included."""
        return int(2 * self._keys.numel() * self._keys.element_size())

    def extend(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Add entries at ``positions`` int64 [n]; return keys and values [heads, n, head_dim] to fill."""
        first, last = self._size, self._size + len(positions)
        if last > self._keys.shape[1]:
            self._grow(last)
        self._size = last
        self._positions[first:last] = positions
        return self._keys[:, first:last], self._values[:, first:last]

    def select(self, rows: torch.Tensor) -> None:
        """Keep other entries in each head, and give the memory of the others back.

        From here on ``positions`` are those of the first head; they still lie before all later entries.

        Args:
            rows: int64 [heads, m], entries that stay, ascending in each head.
        """
        import torch

        before, size = self.allocated_bytes, rows.shape[1]
        heads, _, head_dim = self._keys.shape
        keys = self._keys.new_empty((heads, size + _ROOM, head_dim))
        values = torch.empty_like(keys)
        at = rows[:, :, None].expand(-1, -1, head_dim)
        torch.gather(self._keys, 1, at, out=keys[:, :size])
        torch.gather(self._values, 1, at, out=values[:, :size])
        positions = self._positions.new_empty(size + _ROOM)
        positions[:size] = self._positions[rows[0]]
        self._keys, self._values, self._positions, self._size = keys, values, positions, size
        self._meter.add(self.allocated_bytes)
        self._meter.add(-before)

    def _grow(self, size: int) -> None:
        before = self.allocated_bytes
        old = self._keys, self._values, self._positions
        capacity = max(2 * self._keys.shape[1], size + _ROOM)
        heads, _, head_dim = self._keys.shape
        self._keys = old[0].new_empty((heads, capacity, head_dim))
        self._values = old[1].new_empty((heads, capacity, head_dim))
        self._positions = old[2].new_empty(capacity)
        self._meter.add(self.allocated_bytes)
        self._keys[:, : self._size] = old[0][:, : self._size]
        self._values[:, : self._size] = old[1][:, : self._size]
        self._positions[: self._size] = old[2][: self._size]
        self._meter.add(-before)

    def release(self) -> None:
        """Forget everything and give the memory back."""
        self._meter.add(-self.allocated_bytes)
        self._keys = self._keys[:, :0].clone()
        self._values = self._values[:, :0].clone()
        self._positions = self._positions[:0].clone()
        self._size = 0
