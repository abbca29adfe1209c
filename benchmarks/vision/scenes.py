"""Synthetic pictures and short videos of digits and coloured shapes before a busy grey background.

A picture is 224 x 224 pixels. Its objects (handwritten digits of scikit-learn and plain shapes, 32 to 44
pixels wide) lie anywhere inside the cells of a 3 x 3 raster, unaligned to the 16-pixel patches of a vision
tower; they cover a tenth to a third of the patches. In a video the background stands still and one object
moves along a straight line. Everything follows from the split and the number of a scene. Validation and test
draw their digits from every fifth sample of handwriting, training from the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from benchmarks.vision.words import COLOURS, DIGITS, PLACES, SHAPES, WAYS

Split = Literal["train", "validation", "test"]
Pixels = NDArray[np.uint8]
Path = tuple[tuple[int, int], ...]  # a centre (x, y) for every frame, pixels

SIDE = 224
CELL = SIDE / 3
SIZES = (32, 44)  # of objects, pixels
MARGIN = 8  # a moving object begins and ends at least so far from the border between two places
_SPLITS: dict[Split, int] = {"train": 0, "validation": 1, "test": 2}
_RGB = {
    "red": (225, 35, 35),
    "green": (40, 180, 50),
    "blue": (45, 70, 235),
    "yellow": (240, 225, 45),
    "cyan": (50, 215, 225),
    "pink": (240, 80, 200),
    "orange": (250, 135, 20),
    "white": (245, 245, 245),
}
_STEPS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}


@dataclass(frozen=True)
class Thing:
    """An object: what it is, its colour, its box's width in pixels, its centre (x, y) in every frame."""

    kind: str
    colour: str
    size: int
    path: Path
    glyph: int  # which handwriting, for digits

    @property
    def is_digit(self) -> bool:
        return self.kind in DIGITS

    def place(self, frame: int = 0) -> str:
        """Name the cell that its centre lies in."""
        return place_of(*self.path[frame])


@dataclass(frozen=True)
class Scene:
    """A picture (one frame) or a video.

    Attributes:
        split: train, validation or test.
        number: of the scene in its split.
        things: the objects, in no order that can be seen.
        mover: index of the one that moves, None in a picture.
        way: in which direction it moves.
    """

    split: Split
    number: int
    things: tuple[Thing, ...]
    frames: int = 1
    mover: int | None = None
    way: str | None = None

    def render(self) -> list[Pixels]:
        """Draw all frames, each [224, 224, 3]."""
        rng = _rng(self.split, self.number, 7 + self.frames)
        ground = background(rng)
        drawn = []
        for frame in range(self.frames):
            canvas = ground.copy()
            for thing in self.things:
                _paint(canvas, thing, frame)
            if frame:  # the camera's noise differs from frame to frame, as in a real video
                canvas += 0.6 * _grain(rng)
            drawn.append(np.clip(canvas, 0, 255, out=canvas).astype(np.uint8))
        return drawn


def place_of(x: float, y: float) -> str:
    """Name the cell of the 3 x 3 raster at a point in pixels."""
    return PLACES[min(int(y // CELL), 2) * 3 + min(int(x // CELL), 2)]


def picture(split: Split, number: int) -> Scene:
    """Make a picture of two to five objects, each in its own place."""
    rng = _rng(split, number, 0)
    count = int(rng.integers(2, 6))
    # Few colours and shapes for a scene, so that some come more than once and counting them means something.
    colours = rng.permutation(COLOURS)[: rng.integers(1, 4)]
    shapes = rng.permutation(SHAPES)[: rng.integers(1, 4)]
    cells = rng.permutation(len(PLACES))[:count]
    digits = rng.permutation(DIGITS)
    things = []
    for index, cell in enumerate(cells):
        size, centre = _in_cell(rng, int(cell))
        kind = str(digits[index]) if rng.random() < 0.5 else str(rng.choice(shapes))
        things.append(_thing(rng, split, kind, str(rng.choice(colours)), size, (centre,)))
    return Scene(split, number, tuple(things))


def crowd(split: Split, number: int) -> Scene:
    """Make a picture with an object in every place: a vision tower learns most from these."""
    rng = _rng(split, number, 2)
    things = []
    for cell in range(len(PLACES)):
        size, centre = _in_cell(rng, cell)
        kind = str(rng.choice(DIGITS)) if rng.random() < 0.7 else str(rng.choice(SHAPES))
        things.append(_thing(rng, split, kind, str(rng.choice(COLOURS)), size, (centre,)))
    return Scene(split, number, tuple(things))


def _in_cell(rng: np.random.Generator, cell: int) -> tuple[int, tuple[int, int]]:
    """Draw an object's size and where in a cell of the raster its centre lies, so that it stays inside."""
    size = int(rng.integers(SIZES[0], SIZES[1] + 1))
    slack = int(CELL / 2 - size / 2 - 2)
    x, y = (int((at + 0.5) * CELL) + int(rng.integers(-slack, slack + 1)) for at in (cell % 3, cell // 3))
    return size, (x, y)


def video(split: Split, number: int, frames: int = 4) -> Scene:
    """Make a video of three objects of different colours and kinds, one of which moves 51 to 66 pixels."""
    rng = _rng(split, number, 1)
    colours = rng.permutation(COLOURS)
    some = (*rng.permutation(DIGITS)[:3], *rng.permutation(SHAPES)[:3])
    kinds = [str(kind) for kind in rng.permutation(some)]
    way = str(rng.choice(WAYS))
    size = int(rng.integers(SIZES[0], SIZES[1] + 1))
    path = _path(rng, way, size, frames)
    things = [_thing(rng, split, kinds[0], str(colours[0]), size, path)]
    boxes = [_box(path, size)]
    while len(things) < 3:
        other = int(rng.integers(SIZES[0], SIZES[1] + 1))
        x, y = (int(at) for at in rng.integers(other // 2 + 1, SIDE - other // 2 - 1, 2))
        box = _box(((x, y),), other)
        if any(_overlap(box, taken) for taken in boxes):
            continue
        boxes.append(box)
        kind, colour = kinds[len(things)], str(colours[len(things)])
        things.append(_thing(rng, split, kind, colour, other, ((x, y),) * frames))
    order = rng.permutation(3)
    mover = int(np.flatnonzero(order == 0)[0])
    return Scene(split, number, tuple(things[index] for index in order), frames, mover, way)


def background(rng: np.random.Generator) -> NDArray[np.float32]:
    """Draw soft grey clouds, strokes, dots and frames in other greys, and fine grain: [224, 224, 3]."""
    coarse = rng.uniform(-28, 28, (7, 7)).astype(np.float32) + rng.uniform(55, 105)
    clouds = Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(clouds)
    for _ in range(rng.integers(6, 13)):
        x, y = (int(at) for at in rng.integers(0, SIDE, 2))
        w, h = (int(at) for at in rng.integers(8, 60, 2))
        grey, form = float(rng.uniform(20, 150)), rng.integers(0, 4)
        if form == 0:
            draw.line((x, y, x + w - 30, y + h - 30), fill=grey, width=int(rng.integers(1, 5)))
        elif form == 1:
            draw.arc((x, y, x + w, y + h), 0, float(rng.uniform(90, 360)), fill=grey, width=2)
        elif form == 2:
            draw.rectangle((x, y, x + w, y + h), outline=grey)
        else:
            draw.ellipse((x, y, x + w // 4, y + w // 4), fill=grey)
    tint = rng.uniform(0.92, 1.08, 3).astype(np.float32)
    return np.asarray(clouds)[:, :, None] * tint + _grain(rng)


def _grain(rng: np.random.Generator) -> NDArray[np.float32]:
    """Return a window of one field of noise; drawing fresh noise would take longer than all the rest."""
    top, left = rng.integers(0, SIDE, 2)
    return _noise()[top : top + SIDE, left : left + SIDE]


@lru_cache(maxsize=1)
def _noise() -> NDArray[np.float32]:
    return 5 * np.random.default_rng(0).standard_normal((2 * SIDE, 2 * SIDE, 1), dtype=np.float32)


def _rng(split: Split, number: int, use: int) -> np.random.Generator:
    return np.random.default_rng((_SPLITS[split], number, use))


def _thing(
    rng: np.random.Generator,
    split: Split,
    kind: str,
    colour: str,
    size: int,
    path: Path,
) -> Thing:
    glyph = int(rng.choice(_handwriting(split == "train")[kind])) if kind in DIGITS else -1
    return Thing(kind, colour, size, path, glyph)


def _path(rng: np.random.Generator, way: str, size: int, frames: int) -> Path:
    half = size // 2 + 1
    while True:
        far = int(rng.integers(51, 67))
        start = rng.integers(half, SIDE - half, 2)
        end = start + far * np.array(_STEPS[way])
        inside = (end >= half).all() and (end < SIDE - half).all()
        if inside and all(abs(at - border) >= MARGIN for at in (*start, *end) for border in (CELL, 2 * CELL)):
            steps = np.linspace(start, end, frames).round().astype(int)
            return tuple((int(x), int(y)) for x, y in steps)


def _box(path: Path, size: int) -> tuple[int, int, int, int]:
    """Return the box that a thing sweeps: left, top, right, bottom."""
    xs, ys = zip(*path, strict=True)
    half = size // 2 + 1
    return min(xs) - half, min(ys) - half, max(xs) + half, max(ys) + half


def _overlap(one: tuple[int, int, int, int], other: tuple[int, int, int, int]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def corner(thing: Thing, frame: int) -> tuple[int, int]:
    """Return the left and the top edge of a thing's box, pixels."""
    x, y = thing.path[frame]
    return x - thing.size // 2, y - thing.size // 2


def _paint(canvas: NDArray[np.float32], thing: Thing, frame: int) -> None:
    left, top = corner(thing, frame)
    mask = _mask(thing.kind, thing.size, thing.glyph)[:, :, None]
    patch = canvas[top : top + thing.size, left : left + thing.size]
    patch += mask * (np.array(_RGB[thing.colour], dtype=np.float32) - patch)


@lru_cache(maxsize=20_000)
def _mask(kind: str, size: int, glyph: int) -> NDArray[np.float32]:
    """Return how much of every pixel of its box a thing covers, [size, size]."""
    if glyph >= 0:
        image = Image.fromarray((_digits()[0][glyph] * 1.4).clip(0, 16).astype(np.float32))
        scaled = np.asarray(image.resize((size, size), Image.Resampling.BICUBIC)) / 16
        return scaled.clip(0, 1).astype(np.float32)
    big = 4 * size
    image = Image.new("L", (big, big))
    draw = ImageDraw.Draw(image)
    end, wide = big - 1, big // 5
    if kind == "circle":
        draw.ellipse((0, 0, end, end), fill=255)
    elif kind == "ring":
        draw.ellipse((0, 0, end, end), fill=255)
        draw.ellipse((wide, wide, end - wide, end - wide), fill=0)
    elif kind == "square":
        draw.rectangle((wide // 3, wide // 3, end - wide // 3, end - wide // 3), fill=255)
    elif kind == "triangle":
        draw.polygon(((big // 2, 0), (end, end), (0, end)), fill=255)
    elif kind == "cross":
        draw.rectangle((2 * wide, 0, end - 2 * wide, end), fill=255)
        draw.rectangle((0, 2 * wide, end, end - 2 * wide), fill=255)
    else:
        raise ValueError(f"no such kind of object: {kind}")
    small = image.resize((size, size), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.float32) / 255


@lru_cache(maxsize=1)
def _digits() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return scikit-learn's 1,797 handwritten digits, [n, 8, 8] from 0 to 16, and their values."""
    from sklearn.datasets import load_digits

    found = load_digits()
    return found.images, found.target


@lru_cache(maxsize=2)
def _handwriting(train: bool) -> dict[str, NDArray[np.int64]]:
    """Return the numbers of the glyphs of each digit that a split may draw."""
    target = _digits()[1]
    own = (np.arange(len(target)) % 5 != 0) == train
    return {digit: np.flatnonzero(own & (target == int(digit))) for digit in DIGITS}
