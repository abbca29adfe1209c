"""From the files of pictures to the rows that stay of them: decode, encode, prune. Blocking."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from tokenprune.errors import ImageError, VisionError
from tokenprune_server.lru import ByteLru
from tokenprune_server.vision.parts import refused
from tokenprune_server.vision.settings import VisionSettings
from tokenprune_server.vision.wire import encode_rows

if TYPE_CHECKING:
    from PIL.Image import Image

    from tokenprune.vision.encoder import VisionEncoder
    from tokenprune.vision.images import ImageLimits
    from tokenprune.vision.methods import VisionMethod
    from tokenprune.vision.tokens import VisualTokens

_BATCH = 16  # pictures that are decoded before they are encoded
_BYTES_PER_ENTRY = 2000
_PROBE_SIZE = 64


@dataclass(frozen=True, slots=True)
class Plan:
    """How the pictures of a request are pruned.

    Attributes:
        method: builds what stays.
        key: method, options and budget, to find what was done before.
        keep: rows, a share, or None; see `VisionMethod.reduce`.
        video: pictures that follow each other are frames of one video.
        name: of the method.
    """

    method: VisionMethod
    key: str
    keep: int | float | None
    video: bool
    name: str


@dataclass(frozen=True, slots=True)
class File:
    """The file of a picture, where it stood in the request, and its media type ("": none was given)."""

    place: str
    data: bytes
    declared: str = ""


@dataclass(frozen=True, slots=True)
class Rows:
    """What stays of one picture.

    Attributes:
        sha256: of its file.
        grid: rows and columns of its patches.
        before: tokens it had.
        kept: place in the grid, row by row, of each row that goes on.
        merged: how many of these hold other tokens as well.
        payload: the rows in base64, of a video those of all its frames; None: the frame is not its first.
    """

    sha256: str
    grid: tuple[int, int]
    before: int
    kept: tuple[int, ...]
    merged: int
    payload: str | None


@dataclass(frozen=True, slots=True)
class Reduction:
    """What stays of the pictures of a request, in their order.

    Attributes:
        rows: of each picture.
        counts: rows of each part that goes: a picture, or a video.
        encoded: how many went through the encoder, the others being known from before.
        seconds: by step.
    """

    rows: tuple[Rows, ...]
    counts: tuple[int, ...]
    encoded: int
    seconds: dict[str, float]

    @property
    def before(self) -> int:
        """Tokens of all pictures unpruned."""
        return sum(rows.before for rows in self.rows)

    @property
    def after(self) -> int:
        """Tokens that go on."""
        return sum(len(rows.kept) for rows in self.rows)


class PictureReducer:
    """Encodes and prunes pictures; the encoder is loaded when it is first needed. Thread-safe.

    What the encoder makes of a picture is kept by the hash of its file, and so is what a method leaves of it.
    """

    def __init__(self, settings: VisionSettings) -> None:
        self._settings = settings
        self._lock, self._encoding = threading.Lock(), threading.Lock()
        # What is known: of a file, its tokens; of files and a plan, what is left of them.
        self._cache: ByteLru[tuple[str, ...], Any] = ByteLru(settings.cache_max_bytes)

    @cached_property
    def limits(self) -> ImageLimits:
        """Which pictures are refused."""
        from tokenprune.vision.images import ImageLimits

        return ImageLimits(self._settings.max_image_bytes, self._settings.max_pixels)

    def encoder(self) -> VisionEncoder:
        """The encoder.

        Raises:
            ModelError: it cannot be loaded.
            MissingExtraError: torch, transformers or Pillow is not installed.
        """
        from tokenprune.vision.encoder import load_vision_encoder

        return load_vision_encoder(self._settings.model, self._settings.device, self._settings.dtype)

    def warm_up(self) -> None:
        """Load, and encode once, so that the first request does not wait for it."""
        self.encoder().encode([probe_picture()])

    def __call__(self, files: Sequence[File], groups: Sequence[Sequence[int]], plan: Plan) -> Reduction:
        """Prune the pictures of a request.

        Args:
            files: the pictures.
            groups: numbers of those that are pruned together, as frames of a video; each picture is in one.
            plan: how.

        Raises:
            RequestError: a picture that cannot be read, or a budget or method that does not fit it.
            ModelError, MissingExtraError: see `encoder`.
            VisionError: the encoder's numbers cannot be used.
        """
        began = time.perf_counter()
        hashes = [hashlib.sha256(file.data).hexdigest() for file in files]
        found: dict[int, list[Rows]] = {}
        for number, group in enumerate(groups):
            known = self._get((plan.key, *(hashes[i] for i in group)))
            if known is not None:
                found[number] = known
        open_ = [i for number, group in enumerate(groups) if number not in found for i in group]
        tokens, encoded, reading = self._encode({hashes[i]: files[i] for i in open_})
        encoding = time.perf_counter() - began - reading
        for number, group in enumerate(groups):
            if number not in found:
                names = [hashes[i] for i in group]
                found[number] = self._reduce([tokens[name] for name in names], names, plan)
                size = sum(_BYTES_PER_ENTRY + len(r.payload or "") + 8 * len(r.kept) for r in found[number])
                self._put((plan.key, *names), found[number], size)
        by_picture = {
            i: rows for n, group in enumerate(groups) for i, rows in zip(group, found[n], strict=True)
        }
        steps = {
            "vision-read": reading,
            "vision-encode": encoding,
            "vision-prune": time.perf_counter() - began - reading - encoding,
        }
        counts = tuple(sum(len(rows.kept) for rows in found[number]) for number in range(len(groups)))
        return Reduction(tuple(by_picture[i] for i in range(len(files))), counts, encoded, steps)

    def _get(self, key: tuple[str, ...]) -> Any:
        with self._lock:
            return self._cache.get(key)

    def _put(self, key: tuple[str, ...], value: Any, size: int) -> None:
        with self._lock:
            self._cache.put(key, value, size)

    def _encode(self, files: dict[str, File]) -> tuple[dict[str, VisualTokens], int, float]:
        """The tokens of pictures by hash, how many were encoded for it, and the seconds of reading files."""
        tokens: dict[str, VisualTokens] = {}
        encoder = self.encoder()
        reading = 0.0
        encoded = 0
        # One picture after the other: an encoder uses all cores, and a picture that comes twice waits here.
        with self._encoding:
            todo = []
            for name in files:
                known = self._get((name,))
                if known is None:
                    todo.append(name)
                else:
                    tokens[name] = known
            at = 0
            while at < len(todo):
                began = time.perf_counter()
                names: list[str] = []
                pictures: list[Image] = []
                pixels = 0
                # Pictures that are decoded at the same time are bounded by their pixels, too.
                while at < len(todo) and len(names) < _BATCH and pixels < self._settings.max_pixels:
                    pictures.append(self._read(files[todo[at]]))
                    pixels += pictures[-1].width * pictures[-1].height
                    names.append(todo[at])
                    at += 1
                reading += time.perf_counter() - began
                for name, made in zip(names, encoder.encode(pictures), strict=True):
                    tokens[name] = made
                    self._put((name,), made, _tensor_bytes(made))
                encoded += len(names)
        return tokens, encoded, reading

    def _read(self, file: File) -> Image:
        from tokenprune.vision.images import read_image

        try:
            picture = read_image(file.data, file.declared, self.limits)
        except ImageError as error:
            raise refused(file.place, f"cannot be used: {error}") from error
        moving = [note for note in picture.notes if note.startswith("animated")]
        if moving:
            raise refused(
                file.place,
                f"cannot be used ({moving[0]}): send its frames as pictures",
            )
        return picture.image

    def _reduce(self, pictures: list[VisualTokens], names: list[str], plan: Plan) -> list[Rows]:
        tokens = pictures[0] if len(pictures) == 1 else joined(pictures)
        reduced = plan.method.reduce(tokens, plan.keep)
        if not len(reduced):
            raise VisionError(f"vision method {plan.name!r} leaves nothing of a picture")
        _, height, width = tokens.grid
        size = height * width
        merged, dimension = reduced.merged, self.encoder().dimension
        out = []
        for number, name in enumerate(names):
            mine = (reduced.keep // size == number).nonzero().flatten()
            kept = tuple((reduced.keep[mine] - number * size).tolist())
            payload = encode_rows(reduced.features, dimension) if number == 0 else None
            out.append(Rows(name, (height, width), size, kept, int(merged[mine].sum()), payload))
        return out


def joined(pictures: Sequence[VisualTokens]) -> VisualTokens:
    """Frames that were encoded one by one as one video, as `VisionEncoder.encode` makes it of all of them.

    Raises:
        VisionError: frames with different grids.
    """
    import torch

    from tokenprune.vision.tokens import VisualTokens

    first = pictures[0]
    if any(p.grid != first.grid for p in pictures):
        raise VisionError("the frames of a video must have the same number of patches")

    def together(name: str) -> torch.Tensor | None:
        values = [getattr(p, name) for p in pictures]
        return None if values[0] is None else torch.cat(values)

    return VisualTokens.from_grid(
        torch.cat([p.features for p in pictures]),
        (len(pictures), *first.grid[1:]),
        received=together("received"),
        cls_attention=together("cls"),
        keys=together("keys"),
        heads=first.heads,
    )


def probe_picture() -> Image:
    """A small picture with a gradient in each direction, to compare what two encoders make of it."""
    from PIL import Image

    size = _PROBE_SIZE
    picture = Image.new("RGB", (size, size))
    picture.putdata(
        [(x * 255 // size, y * 255 // size, (x ^ y) * 255 // size) for y in range(size) for x in range(size)]
    )
    return picture


def _tensor_bytes(tokens: VisualTokens) -> int:
    parts = (tokens.features, tokens.frame, tokens.row, tokens.col, tokens.received, tokens.cls, tokens.keys)
    return _BYTES_PER_ENTRY + sum(int(p.nbytes) for p in parts if p is not None)
