"""Floating-point operations of a prompt's way through the model, by method: counted, not timed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.common.context import Context
from benchmarks.vision.asking import FULL, METHODS, Named, encode, load, rows_read
from benchmarks.vision.scenes import picture, video


def layer_flops(rows: int, hidden: int, inner: int, gates: int, causal: bool) -> float:
    """Multiplications and additions of a transformer layer over ``rows`` tokens.

    Args:
        rows: tokens.
        hidden: width.
        inner: width of the feed-forward part.
        gates: its matrices.
        causal: whether a token sees only those before it.
    """
    matrices = 4 * hidden * hidden + gates * hidden * inner
    seen = (rows + 1) / 2 if causal else rows
    return 2.0 * rows * (matrices + 2 * hidden * seen)


def tower_flops(config: Any, frames: int) -> float:
    """Of vision tower and projector for so many pictures."""
    vision, hidden = config.vision_config, config.text_config.hidden_size
    patches = (vision.image_size // vision.patch_size) ** 2
    layers = config.vision_config.num_hidden_layers * layer_flops(
        patches + 1, vision.hidden_size, vision.intermediate_size, 2, causal=False
    )
    embedding = 2.0 * patches * vision.num_channels * vision.patch_size**2 * vision.hidden_size
    projector = 2.0 * patches * (vision.hidden_size * hidden + hidden * hidden)
    return frames * (layers + embedding + projector)


def prefill_flops(config: Any, rows: Sequence[int]) -> float:
    """Of the language model's layers, which read so many tokens each, and its head for the last token."""
    text = config.text_config
    layers = sum(layer_flops(n, text.hidden_size, text.intermediate_size, 3, causal=True) for n in rows)
    return layers + 2.0 * text.hidden_size * text.vocab_size


def run(context: Context) -> dict[str, Any]:
    options = context.options
    engine = load()
    config = engine.encoder.config
    rows = []
    scenes = [
        (picture("test", 0), "how many objects are there ?"),
        (video("test", 0, 8), "what colour moved ?"),
    ]
    for scene, text in scenes:
        tokens = encode(engine, scene)
        frames = tokens.grid[0]
        wanted = [(Named(FULL), 1.0)]
        names = [name for name in options.methods if name != "atp-llava"]  # it decides itself how much stays
        wanted += [(METHODS[name], keep) for name in names for keep in options.flop_keeps]
        for method, keep in wanted:
            read = rows_read(engine, tokens, method.reduce(tokens, keep), text, method.reducers(keep))
            tower, prefill = tower_flops(config, frames), prefill_flops(config, read)
            rows.append(
                {
                    "method": method.name, "frames": frames, "visual": len(tokens), "keep": keep,
                    "rows": read, "tower": tower, "prefill": prefill,
                }
            )  # fmt: skip
        full = next(row for row in rows if row["frames"] == frames and row["method"] == FULL)
        for row in rows:
            if row["frames"] == frames:
                row["prefill_share"] = row["prefill"] / full["prefill"]
                row["share"] = (row["tower"] + row["prefill"]) / (full["tower"] + full["prefill"])
    return {"rows": rows}
