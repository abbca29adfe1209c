"""Pictures of what a method keeps: kept patches bright and framed, merged and dropped ones dimmed."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tokenprune.errors import MissingExtraError, VisionError

if TYPE_CHECKING:
    from PIL.Image import Image

    from tokenprune.vision.encoder import VisionEncoder
    from tokenprune.vision.tokens import Reduced, VisualTokens

Pixels = npt.NDArray[np.uint8]
States = npt.NDArray[np.int8]

# what becomes of a patch
DROPPED, AWAY, KEPT, CENTRE = range(4)
MARKS = "·░█◆"  # in a terminal
LABELS = ("dropped", "merged into another", "kept", "kept, with others merged in")
_FRAMES = {KEPT: (237, 174, 73), CENTRE: (64, 156, 255)}  # colours of the frames of kept patches
_DIM = {DROPPED: 0.22, AWAY: 0.45}
_PATCH = 24  # pixels of a patch in the picture, at least
_INCHES, _DPI = 3.2, 150
_TEXT = 0.17  # inches of a line of text
_LINE, _LINES = 46, 3  # characters of a line below a picture; lines of one answer


@dataclass(frozen=True)
class Panel:
    """One column of the picture: a title, what became of each patch, and a line below ("" for none)."""

    title: str
    states: States
    below: str = ""


def states(tokens: VisualTokens, reduced: Reduced) -> States:
    """Return what becomes of each place of the grid, int8 [frames, rows, columns]."""
    grid = np.full(tokens.grid, DROPPED, dtype=np.int8)
    of_token = np.where(_numpy(reduced.into) >= 0, AWAY, DROPPED).astype(np.int8)
    of_token[_numpy(reduced.keep)] = np.where(_numpy(reduced.merged), CENTRE, KEPT)
    grid[_numpy(tokens.frame), _numpy(tokens.row), _numpy(tokens.col)] = of_token
    return grid


def count_line(found: States) -> str:
    """Say in words how many patches were kept, merged and dropped."""
    kept = int((found >= KEPT).sum())
    parts = [f"{kept} of {found.size} rows ({kept / found.size:.0%})"]
    for state, words in (
        (CENTRE, "of them with others merged in"),
        (AWAY, "merged away"),
        (DROPPED, "dropped"),
    ):
        if (found == state).any():
            parts.append(f"{int((found == state).sum())} {words}")
    return ", ".join(parts)


def text_map(found: States) -> str:
    """Draw the grid in characters, frames side by side; see `MARKS`."""
    return "\n".join(
        "   ".join("".join(MARKS[state] for state in frame[row]) for frame in found)
        for row in range(found.shape[1])
    )


def as_seen(encoder: VisionEncoder, images: Sequence[Image]) -> Pixels:
    """Return pictures as the encoder sees them, resized and cropped: uint8 [b, height, width, 3]."""
    pixels = encoder.prepare(images).float().cpu().permute(0, 2, 3, 1).numpy()
    processor = encoder.processor
    if processor.do_normalize:
        pixels = pixels * np.asarray(processor.image_std) + np.asarray(processor.image_mean)
    return np.asarray((pixels * 255).round().clip(0, 255), dtype=np.uint8)


def marked(picture: Pixels, found: States) -> Pixels:
    """Dim and frame the patches of one picture.

    Args:
        picture: uint8 [height, width, 3].
        found: int8 [rows, columns].

    Returns:
        uint8, enlarged so that a patch has at least 24 pixels.
    """
    rows, cols = found.shape
    patch = picture.shape[0] // rows
    if (rows * patch, cols * patch) != picture.shape[:2]:
        raise VisionError(f"{rows} x {cols} patches do not fill a picture of {picture.shape[:2]} pixels")
    zoom = -(-_PATCH // patch)
    size = patch * zoom
    out = picture.repeat(zoom, 0).repeat(zoom, 1).astype(np.float32)
    state = found.repeat(size, 0).repeat(size, 1)
    for which, share in _DIM.items():
        out[state == which] *= share
    inside = np.minimum(np.arange(size), np.arange(size)[::-1])
    edge = np.minimum.outer(inside, inside) < max(1, size // 14)
    border = np.tile(edge, (rows, cols))
    for which, colour in _FRAMES.items():
        out[border & (state == which)] = colour
    return np.asarray(out.round(), dtype=np.uint8)


def draw(pictures: Pixels, panels: Sequence[Panel], path: str | Path, title: str = "") -> None:
    """Write a picture: the original, then one column per method; a video has one row per frame.

    Args:
        pictures: uint8 [frames, height, width, 3], see `as_seen`.
        panels: what methods did.
        path: where to; the suffix says the format (.png, .svg, .pdf ...).
        title: above everything.

    Raises:
        VisionError: the file cannot be written, or has a suffix that matplotlib does not know.
        MissingExtraError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.patches import Patch
    except ImportError as error:
        raise MissingExtraError("pictures of visual tokens", "vision", error.name or "matplotlib") from error

    frames, across = len(pictures), len(panels) + 1
    below = max((wrapped(panel.below).count("\n") + 1 for panel in panels), default=0)
    height = _INCHES * frames + 0.9 + _TEXT * (below + 2 * bool(title))
    figure = Figure(figsize=(_INCHES * across, height), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(frames, across, squeeze=False)
    for frame in range(frames):
        columns = [pictures[frame], *(marked(pictures[frame], panel.states[frame]) for panel in panels)]
        for column, picture in zip(axes[frame], columns, strict=True):
            column.imshow(picture, interpolation="nearest")
            column.set(xticks=[], yticks=[])
    axes[0][0].set_title("as the encoder sees it", fontsize=9)
    for column, panel in enumerate(panels, start=1):
        axes[0][column].set_title(panel.title, fontsize=9)
        axes[-1][column].set_xlabel(wrapped(panel.below), fontsize=9)
    shown = [
        state for state in (KEPT, CENTRE, AWAY, DROPPED) if any((p.states == state).any() for p in panels)
    ]
    handles = [
        Patch(
            facecolor=str(_DIM.get(s, 1.0) * 0.85),
            edgecolor="#{:02x}{:02x}{:02x}".format(*_FRAMES.get(s, (90, 90, 90))),
            linewidth=1.5,
            label=LABELS[s],
        )
        for s in shown
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=9)
    if title:
        figure.suptitle(title, fontsize=10)
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise VisionError(f"cannot write {str(path)!r}: {error}") from error


def wrapped(text: str) -> str:
    """Break each line of a text to the width of a picture; long ones end in an ellipsis."""
    lines = (textwrap.wrap(line, _LINE, max_lines=_LINES, placeholder=" ...") for line in text.splitlines())
    return "\n".join(part for line in lines for part in line)


def _numpy(tensor: Any) -> npt.NDArray[Any]:
    return np.asarray(tensor.cpu().numpy())
