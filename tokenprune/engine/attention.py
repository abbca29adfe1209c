"""Attention of new rows over one layer's keys and values, without a mask wherever none is needed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenprune.engine.kv import LayerKV

if TYPE_CHECKING:
    import torch

_BLOCK = 256  # query rows that share one mask


def attend(
    query: torch.Tensor,
    kv: LayerKV,
    positions: torch.Tensor,
    *,
    scale: float,
    window: int | None = None,
    sinks: int = 0,
    free_from: int | None = None,
    visible: torch.Tensor | None = None,
) -> torch.Tensor:
    """Let each row attend to the entries at its own position and before.

    Args:
        query: [H, m, d], rotated, H a multiple of the key heads.
        kv: the entries, those of the rows included. Unless ``visible`` is given, positions ascend and the
            rows are the last entries.
        positions: int64 [m], of the rows.
        scale: of the logits.
        window: positions that a row sees, itself included; None: all before it.
        sinks: first entries that a row sees beyond its window.
        free_from: rows from this position on see everything; None: none do.
        visible: bool [m, len(kv)], what each row sees; takes the place of positions and window.

    Returns:
        [m, H d].
    """
    rows, entries = query.shape[1], len(kv)
    if visible is not None:
        return _masked(query, kv.keys, kv.values, scale, visible)
    if window is not None and int(positions[-1]) - int(kv.positions[0]) < window:
        window = None
    if window is not None and free_from is not None and int(positions[0]) >= free_from:
        window = None
    if rows == 1:
        reach = _Reach(kv, positions[:1], entries, window, sinks)
        return _one(query, reach.keys, reach.values, scale)
    if window is None and rows == entries:
        return _causal(query, kv.keys, kv.values, scale)
    return _in_blocks(query, kv, positions, scale, window, sinks, free_from)


def _causal(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scale: float) -> torch.Tensor:
    from torch.nn.functional import scaled_dot_product_attention

    shared = query.shape[0] != keys.shape[0]
    out = scaled_dot_product_attention(
        query[None], keys[None], values[None], is_causal=True, scale=scale, enable_gqa=shared
    )
    return _rows(out)


def _masked(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scale: float, visible: torch.Tensor
) -> torch.Tensor:
    from torch.nn.functional import scaled_dot_product_attention

    shared = query.shape[0] != keys.shape[0]
    out = scaled_dot_product_attention(
        query[None], keys[None], values[None], attn_mask=visible, scale=scale, enable_gqa=shared
    )
    return _rows(out)


def _one(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scale: float) -> torch.Tensor:
    """One row that sees everything: query heads of a group become rows of one head, nothing is repeated."""
    from torch.nn.functional import scaled_dot_product_attention

    heads, _, head_dim = query.shape
    grouped = query.reshape(1, keys.shape[0], -1, head_dim)
    out = scaled_dot_product_attention(grouped, keys[None], values[None], scale=scale)
    return out.reshape(1, heads * head_dim)


def _in_blocks(
    query: torch.Tensor,
    kv: LayerKV,
    positions: torch.Tensor,
    scale: float,
    window: int | None,
    sinks: int,
    free_from: int | None,
) -> torch.Tensor:
    """Rows behind earlier entries, or under a window: one mask over the entries in reach, block by block."""
    import torch

    rows, before = query.shape[1], len(kv) - query.shape[1]
    free = rows if free_from is None else int(torch.searchsorted(positions, free_from))
    parts = []
    for first in (*range(0, free, _BLOCK), *range(free, rows, _BLOCK)):
        if first >= free:
            window = None
        last = min(first + _BLOCK, rows if first >= free else free)
        own = positions[first:last]
        reach = _Reach(kv, own[:1], before + last, window, sinks)
        distance = own[:, None] - reach.positions
        visible = distance >= 0
        if window is not None:
            near = distance < window
            near[:, : reach.sinks] = True
            visible &= near
        parts.append(_masked(query[:, first:last], reach.keys, reach.values, scale, visible))
    return torch.cat(parts)


class _Reach:
    """The entries that rows from ``position`` [1] on may see: first ones, and those from their window on."""

    def __init__(self, kv: LayerKV, position: torch.Tensor, end: int, window: int | None, sinks: int) -> None:
        import torch

        low = 0
        if window is not None:
            low = int(torch.searchsorted(kv.positions, position - (window - 1)))
        self.sinks = min(sinks, end)
        self.keys, self.values = kv.keys[:, low:end], kv.values[:, low:end]
        self.positions = kv.positions[low:end]
        if self.sinks and low > self.sinks:
            self.keys = torch.cat([kv.keys[:, :sinks], self.keys], 1)
            self.values = torch.cat([kv.values[:, :sinks], self.values], 1)
            self.positions = torch.cat([kv.positions[:sinks], self.positions])
        elif self.sinks:
            self.keys, self.values = kv.keys[:, :end], kv.values[:, :end]
            self.positions = kv.positions[:end]


def _rows(out: torch.Tensor) -> torch.Tensor:
    """[1, H, m, d] to [m, H d]."""
    return out[0].transpose(0, 1).reshape(out.shape[2], -1)
