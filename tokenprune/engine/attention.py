"""Attention of new rows over one layer's keys and values, without a mask wherever none is needed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenprune.engine.kv import LayerKV

if TYPE_CHECKING:
    import torch

_BLOCK = 256  # query rows that share one mask
_BAND = 128  # query rows of a band; more would look at more that is out of their window


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
    rough: bool = False,
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
        rough: whether, in half precision, logits may be rounded to it on the way: under a window that is
            faster by half.

    Returns:
        [m, H d].
    """
    import torch

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
    if window is not None and rough and query.element_size() < 4 and rows == entries:
        free = rows if free_from is None else int(torch.searchsorted(positions, free_from))
        band = _banded(query[:, :free], kv.keys, kv.values, positions, scale, window, sinks)
        if free == rows:
            return band
        end = _in_blocks(query[:, free:], kv, positions[free:], scale, None, 0, None)
        return torch.cat([band, end])
    return _in_blocks(query, kv, positions, scale, window, sinks, free_from)


def _banded(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    positions: torch.Tensor,
    scale: float,
    window: int,
    sinks: int,
) -> torch.Tensor:
    """Rows that are the first entries, under a window: plain products of blocks, masked at their edges only.

    The query heads of a group are rows of one product. ``positions`` are those of the entries. Returns
    [m, H d] of the m rows.
    """
    import torch

    heads, rows, head_dim = query.shape
    groups = len(keys)
    out = query.new_empty((rows, heads * head_dim))
    future = torch.full((_BAND, _BAND), -torch.inf, device=query.device, dtype=query.dtype).triu_(1)
    firsts = torch.arange(0, rows, _BAND, device=query.device)
    begins = positions - (window - 1)  # where each entry's window begins
    # The first entry that any row of a block sees in its window, and the first that all of them do.
    lows = torch.searchsorted(positions, begins[firsts]).tolist()
    alls = torch.searchsorted(positions, begins[(firsts + _BAND - 1).clamp(max=rows - 1)]).tolist()
    for first, low, every in zip(firsts.tolist(), lows, alls, strict=True):
        last = min(first + _BAND, rows)
        if low <= sinks:
            own_keys, own_values, ahead = keys[:, :last], values[:, :last], low
        else:
            own_keys = torch.cat([keys[:, :sinks], keys[:, low:last]], 1)
            own_values = torch.cat([values[:, :sinks], values[:, low:last]], 1)
            ahead = sinks
        block = (query[:, first:last] * scale).reshape(groups, -1, head_dim)
        logits = torch.bmm(block, own_keys.transpose(1, 2))
        by_head = logits.view(heads, last - first, -1)
        by_head[:, :, first - last :] += future[: last - first, : last - first]
        if every > low:
            edge = positions[low:every] < begins[first:last, None]
            if low < sinks:
                edge[:, : sinks - low] = False
            by_head[:, :, ahead : ahead + every - low].masked_fill_(edge, -torch.inf)
        found = torch.bmm(torch.softmax(logits, -1), own_values)
        shape = (groups, heads // groups, last - first, head_dim)
        out[first:last].view(last - first, groups, heads // groups, head_dim).copy_(
            found.view(shape).permute(2, 0, 1, 3)
        )
    return out


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
