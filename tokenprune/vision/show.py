"""Pictures of what a method keeps: kept patches bright and framed, merged and dropped ones dimmed."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tokenprune.errors import MissingExtraError, VisionError
from tokenprune.folders import picture_file
from tokenprune.vision.lettering import Letters

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
_SKEWED = 1.5  # width of a patch by its height, beyond which it is none
_PATCH = 24  # pixels of a patch in the picture, at least
_DPI = 150
_COLUMN, _GAP = 3.2, 0.12  # inches: a column with the gap between pictures; and that gap
_TEXT, _TITLE = 9, 10  # points of letters
_LEADING = 1.2 / 72  # inches of a line, for each point of its letters
_PAD = 3.5  # points between a picture and its letters
_LINES = 3  # of a title, or of one line below a picture


@dataclass(frozen=True)
class Panel:
    """One column of the picture.

    Attributes:
        title: above it.
        states: what became of each patch, by frame or view; see `states`.
        below: a line below it; "" for none.
    """

    title: str
    states: Sequence[States]
    below: str = ""


def states(tokens: VisualTokens, reduced: Reduced) -> list[States]:
    """Return what becomes of each patch, int8 [rows, columns] for each frame, or each view of a picture."""
    grid = np.full(tokens.grid, DROPPED, dtype=np.int8)
    of_token = np.where(_numpy(reduced.into) >= 0, AWAY, DROPPED).astype(np.int8)
    of_token[_numpy(reduced.keep)] = np.where(_numpy(reduced.merged), CENTRE, KEPT)
    grid[_numpy(tokens.frame), _numpy(tokens.row), _numpy(tokens.col)] = of_token
    sizes = tokens.views or [tokens.grid[1:]] * len(grid)
    return [frame[:rows, :cols] for frame, (rows, cols) in zip(grid, sizes, strict=True)]


def count_line(found: Sequence[States]) -> str:
    """Say in words how many patches were kept, merged and dropped."""
    every = np.concatenate([frame.ravel() for frame in found])
    kept = int((every >= KEPT).sum())
    parts = [f"{kept} of {every.size} rows ({kept / every.size:.0%})"]
    for state, words in (
        (CENTRE, "of them with others merged in"),
        (AWAY, "merged away"),
        (DROPPED, "dropped"),
    ):
        if (every == state).any():
            parts.append(f"{int((every == state).sum())} {words}")
    return ", ".join(parts)


def text_map(found: Sequence[States]) -> str:
    """Draw the patches in characters, frames or views side by side; see `MARKS`."""
    lines = []
    for row in range(max(map(len, found))):
        parts = ("".join(MARKS[s] for s in f[row]) if row < len(f) else " " * f.shape[1] for f in found)
        lines.append("   ".join(parts).rstrip())
    return "\n".join(lines)


def as_seen(encoder: VisionEncoder, images: Sequence[Image], *, video: bool = False) -> list[Pixels]:
    """Return pictures as the encoder sees them, resized and cropped: uint8 [height, width, 3] of each view.

    Args:
        encoder: of the model.
        images: a picture, or several.
        video: they are frames of a video.
    """
    processor, out = encoder.processor, []
    for image in images:
        for view in encoder.views(encoder.prepare(image, frame=video)):
            pixels = view.float().cpu().permute(1, 2, 0).numpy()
            if processor.do_normalize:
                pixels = pixels * np.asarray(processor.image_std) + np.asarray(processor.image_mean)
            out.append(np.asarray((pixels * 255).round().clip(0, 255), dtype=np.uint8))
    return out


def _fitted(picture: Pixels, rows: int, cols: int) -> Pixels:
    """Resize a picture where its patches have no whole number of pixels.

    So it is with LLaVA-OneVision's videos and large pictures, whose patches are pooled.
    """
    from PIL import Image as pil

    high, wide = picture.shape[0] / rows, picture.shape[1] / cols
    if not 1 / _SKEWED < high / wide < _SKEWED:
        raise VisionError(f"{rows} x {cols} patches do not fill a picture of {picture.shape[:2]} pixels")
    patch = max(1, round(high))
    if picture.shape[:2] == (rows * patch, cols * patch):
        return picture
    return np.asarray(pil.fromarray(picture).resize((cols * patch, rows * patch)))


def marked(picture: Pixels, found: States) -> Pixels:
    """Dim and frame the patches of one picture.

    Args:
        picture: uint8 [height, width, 3].
        found: int8 [rows, columns].

    Returns:
        uint8, enlarged so that a patch has at least 24 pixels.

    Raises:
        VisionError: these patches are none of this picture.
    """
    rows, cols = found.shape
    picture = _fitted(picture, rows, cols)
    patch = picture.shape[0] // rows
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


def below_each_other(pictures: Sequence[Pixels]) -> Pixels:
    """Return pictures, uint8 [height, width, 3] each, as one; white beside those that are narrower."""
    width = max(picture.shape[1] for picture in pictures)
    return np.concatenate(
        [np.pad(p, ((0, 0), (0, width - p.shape[1]), (0, 0)), constant_values=255) for p in pictures]
    )


def data_url(pixels: Pixels) -> str:
    """Return a picture, uint8 [height, width, 3], as a PNG in a data URL."""
    from PIL import Image as pil

    with io.BytesIO() as file:
        pil.fromarray(pixels).save(file, "PNG")
        return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


@dataclass(frozen=True)
class Drawn:
    """A picture that was written: where, and what is to be said of it ("" for nothing)."""

    path: Path
    note: str = ""


def target(path: str | Path) -> Path:
    """Return the file that `draw` writes for ``path``: PNG where no suffix says otherwise.

    Raises:
        VisionError: it is a folder.
    """
    try:
        return picture_file(path)
    except ValueError as error:
        raise VisionError(f"cannot write {str(path)!r}: {error}") from None


def draw(pictures: Sequence[Pixels], panels: Sequence[Panel], path: str | Path, title: str = "") -> Drawn:
    """Write a picture: the original, then one column per method; one row per frame of a video, or view.

    Args:
        pictures: uint8 [height, width, 3] each, see `as_seen`.
        panels: what methods did.
        path: where to, see `target`; the suffix says the format (.png, .svg, .pdf ...).
        title: above everything, on three lines at most.

    Raises:
        VisionError: the file cannot be written, or has a suffix that matplotlib does not know.
        MissingExtraError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("pictures of visual tokens", "vision", error.name or "matplotlib") from error

    path = target(path)
    letters = Letters.of([title, *(text for panel in panels for text in (panel.title, panel.below))])
    text: dict[str, Any] = {"family": list(letters.families), "parse_math": False, "fontsize": _TEXT}
    frames, across, size = len(pictures), len(panels) + 1, _COLUMN - _GAP
    highs = [size * picture.shape[0] / picture.shape[1] for picture in pictures]
    top = letters.lines(title, _COLUMN * across - 2 * _GAP, _TITLE, _LINES)
    heads = [letters.lines(panel.title, size, _TEXT, 2) for panel in panels]
    feet = [wrapped(panel.below, letters) for panel in panels]

    # Inches from the top: the title, the heads of columns, pictures, what stands below them, the legend.
    above = _GAP + len(top) * _TITLE * _LEADING + _GAP * bool(top)
    above += max([1, *map(len, heads)]) * _TEXT * _LEADING + _GAP / 2
    below = max([0, *map(len, feet)]) * _TEXT * _LEADING + _GAP
    height = above + sum(highs) + frames * _GAP + below + 2 * _TEXT * _LEADING
    width = _COLUMN * across
    figure = Figure(figsize=(width, height), dpi=_DPI)
    FigureCanvasAgg(figure)
    if top:
        at = 1 - _GAP / height
        figure.text(0.5, at, "\n".join(top), ha="center", va="top", **text | {"fontsize": _TITLE})
    for frame, high in enumerate(highs):
        columns = [pictures[frame], *(marked(pictures[frame], panel.states[frame]) for panel in panels)]
        bottom = (height - above - sum(highs[: frame + 1]) - frame * _GAP) / height
        for number, picture in enumerate(columns):
            left = (_GAP / 2 + number * _COLUMN) / width
            axes = figure.add_axes((left, bottom, size / width, high / height), xticks=[], yticks=[])
            axes.imshow(picture, interpolation="nearest", aspect="auto")
            if frame == 0:
                head = heads[number - 1] if number else ["as the encoder sees it"]
                axes.set_title("\n".join(head), pad=_PAD, **text)
            if frame == frames - 1 and number:
                axes.set_xlabel("\n".join(feet[number - 1]), labelpad=_PAD, **text)
    handles = _legend(panels)
    figure.legend(handles=handles, loc="lower center", ncols=len(handles), frameon=False, fontsize=_TEXT)
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise VisionError(f"cannot write {str(path)!r}: {error}") from error
    return Drawn(path, letters.note)


def _legend(panels: Sequence[Panel]) -> list[Any]:
    from matplotlib.patches import Patch

    there = np.unique(np.concatenate([frame.ravel() for panel in panels for frame in panel.states]))
    shown = [state for state in (KEPT, CENTRE, AWAY, DROPPED) if state in there]
    return [
        Patch(
            facecolor=str(_DIM.get(s, 1.0) * 0.85),
            edgecolor="#{:02x}{:02x}{:02x}".format(*_FRAMES.get(s, (90, 90, 90))),
            linewidth=1.5,
            label=LABELS[s],
        )
        for s in shown
    ]


def wrapped(text: str, letters: Letters) -> list[str]:
    """Break each line of a text to the width of a picture; long ones end in an ellipsis."""
    broken = (letters.lines(line, _COLUMN - _GAP, _TEXT, _LINES) for line in text.splitlines())
    return [part for lines in broken for part in lines]


def _numpy(tensor: Any) -> npt.NDArray[Any]:
    return np.asarray(tensor.cpu().numpy())
