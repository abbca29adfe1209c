"""Attention of new rows over one layer's keys and values, without a mask wherever none is needed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenprune.engine.kv import LayerKV
from tokenprune.engine.pieces import in_pieces

if TYPE_CHECKING:
    import torch

_BLOCK = 256  # query rows that share one mask
# Query rows of a product, with those of a group's heads: logits of a few thousand entries stay in the cache.
_PRODUCT_ROWS = 384
_LEAST_ROWS, _MOST_ROWS = 64, 128  # of these, of one head: more would look at more that is out of a window


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
    if query.device.type == "cpu" and query.element_size() < 4:
        free = rows if free_from is None or window is None else int(torch.searchsorted(positions, free_from))
        behind = entries - rows + free
        band = _by_products(
            query[:, :free],
            kv.keys[:, :behind],
            kv.values[:, :behind],
            kv.positions[:behind],
            scale,
            window,
            sinks,
        )
        if free == rows:
            return band
        end = _by_products(query[:, free:], kv.keys, kv.values, kv.positions, scale)
        return torch.cat([band, end])
    if window is None and rows == entries:
        return _causal(query, kv.keys, kv.values, scale)
    return _in_blocks(query, kv, positions, scale, window, sinks, free_from)


def _by_products(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    positions: torch.Tensor,
    scale: float,
    window: int | None = None,
    sinks: int = 0,
) -> torch.Tensor:
    """Rows that are the last entries: plain products of blocks, masked at their edges only.

    The query heads of a group are rows of one product, and products are computed side by side. Logits and
    shares are rounded to the rows' number format, where fused kernels keep float32: measured, that is no
    less exact than what bfloat16 does elsewhere in a model (benchmarks/RESULTS.md).

    Args:
        query: [H, m, d].
        keys: [G, n, d], n at least m.
        values: [G, n, d].
        positions: int64 [n], of the entries, ascending.
        scale: of the logits.
        window: see `attend`.
        sinks: see `attend`.

    Returns:
        [m, H d].
    """
    import torch

    heads, rows, head_dim = query.shape
    groups, before = len(keys), len(positions) - rows
    shared = heads // groups
    size = min(max(_PRODUCT_ROWS // shared, _LEAST_ROWS), _MOST_ROWS)
    by_group = query.reshape(groups, shared, rows, head_dim)
    out = query.new_empty((rows, groups, shared, head_dim))
    future = torch.full((size, size), -torch.inf, device=query.device, dtype=query.dtype).triu_(1)
    firsts = torch.arange(0, rows, size, device=query.device)
    lows = alls = [0] * len(firsts)
    begins = positions[before:] - ((window or 0) - 1)  # where each row's window begins
    if window is not None:
        # The first entry that any row of a block sees in its window, and the first that all of them do.
        lows = torch.searchsorted(positions, begins[firsts]).tolist()
        alls = torch.searchsorted(positions, begins[(firsts + size - 1).clamp(max=rows - 1)]).tolist()

    def compute(block: tuple[int, int, int, int]) -> None:
        group, first, low, every = block
        last = min(first + size, rows)
        end = before + last
        if low <= sinks:
            own_keys, own_values, ahead = keys[group, :end], values[group, :end], low
        else:
            own_keys = torch.cat([keys[group, :sinks], keys[group, low:end]])
            own_values = torch.cat([values[group, :sinks], values[group, low:end]])
            ahead = sinks
        own = (by_group[group, :, first:last] * scale).view(-1, head_dim)
        logits = own @ own_keys.T
        by_head = logits.view(shared, last - first, -1)
        by_head[:, :, first - last :] += future[: last - first, : last - first]
        if every > low:
            edge = positions[low:every] < begins[first:last, None]
            if low < sinks:
                edge[:, : sinks - low] = False
            by_head[:, :, ahead : ahead + every - low].masked_fill_(edge, -torch.inf)
        found = torch.softmax(logits, -1) @ own_values
        out[first:last, group] = found.view(shared, last - first, head_dim).transpose(0, 1)

    # The longest first, so that no thread ends long before the others.
    blocks = [
        (group, *block) for block in zip(firsts.tolist(), lows, alls, strict=True) for group in range(groups)
    ]
    in_pieces(compute, blocks[::-1], query.device)
    return out.view(rows, -1)


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
