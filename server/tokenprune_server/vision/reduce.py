"""From the files of pictures to the rows that stay of them: decode, encode, prune. Blocking."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from tokenprune.errors import ModelError, VisionError
from tokenprune.given_up import look
from tokenprune.lru import ByteLru
from tokenprune.vision.methods.base import more_than_asked
from tokenprune_server.vision.files import File, decode
from tokenprune_server.vision.settings import VisionSettings
from tokenprune_server.vision.wire import encode_rows

if TYPE_CHECKING:
    from PIL.Image import Image

    from tokenprune.vision.encoder import VisionEncoder
    from tokenprune.vision.families import Prepared
    from tokenprune.vision.items import Item
    from tokenprune.vision.methods import VisionMethod
    from tokenprune.vision.tokens import VisualTokens

Name = tuple[str, ...]

_FRAME = "frame"
_TENSORS = ("features", "frame", "row", "col", "received", "cls", "keys")  # of `VisualTokens`
_BATCH = 16  # pictures, or tiles of them, that go through the encoder together
_BYTES_PER_ENTRY = 2000
_PROBE_SIZE = 64
_LOOK_S = 0.1  # between looks at whether a request that waits for the encoder was given up


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
class Rows:
    """What stays of one picture.

    Attributes:
        sha256: of its file.
        views: rows and columns of its patches; of LLaVA-OneVision's pictures, of each view.
        before: tokens it had, ends of lines included.
        kept: place in the grid, row by row (and view by view), of each patch that stays.
        ends: ends of lines that stay; see `tokenprune.vision.items.Item`.
        merged: how many patches that stay hold other tokens as well.
        payload: the rows in base64, of a video those of all its frames; None: the frame is not its first.
        note: why more stays than was asked for; "" where it does not.
    """

    sha256: str
    views: tuple[tuple[int, int], ...]
    before: int
    kept: tuple[int, ...]
    ends: int
    merged: int
    payload: str | None
    note: str

    @property
    def after(self) -> int:
        """Tokens that stay, ends of lines included."""
        return len(self.kept) + self.ends


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
        return sum(rows.after for rows in self.rows)


class PictureReducer:
    """Encodes and prunes pictures; the encoder is loaded when it is first needed. Thread-safe.

    What the encoder makes of a picture is kept by the hash of its file, and so is what a method leaves of it.
    """

    def __init__(self, settings: VisionSettings) -> None:
        self._settings = settings
        self._lock, self._encoding = threading.Lock(), threading.Lock()
        # What is known: of a picture, its tokens; of pictures and a plan, what is left of them.
        self._cache: ByteLru[tuple[str, ...], Any] = ByteLru(settings.cache_max_bytes)

    def encoder(self) -> VisionEncoder:
        """The encoder.

        Raises:
            ModelError: it cannot be loaded.
            MissingExtraError: torch, transformers or Pillow is not installed.
        """
        from tokenprune.vision.encoder import load_vision_encoder

        try:
            return load_vision_encoder(self._settings.model, self._settings.device, self._settings.dtype)
        except ModelError as error:
            raise ModelError(f"server.vision.model: {' '.join(str(error).split())}") from error

    def warm_up(self) -> None:
        """Load, and encode once, so that the first request does not wait for it."""
        self.encoder().encode([probe_picture()])

    def known(self, files: Sequence[File], groups: Sequence[Sequence[int]], plan: Plan) -> Reduction | None:
        """What `__call__` gives, if all pictures are known from before, else None; waits for nobody."""
        began = time.perf_counter()
        found = self._found(files, groups, plan)
        items: dict[Name, Item] = {}
        for name in self._unknown(files, groups, found):
            known = self._get(name)
            if known is None:
                return None
            items[name] = known
        self._prune(files, groups, plan, found, items)
        return _reduction(files, groups, found, 0, {"vision-prune": time.perf_counter() - began})

    def __call__(
        self,
        files: Sequence[File],
        groups: Sequence[Sequence[int]],
        plan: Plan,
    ) -> Reduction:
        """Prune the pictures of a request.

        Args:
            files: the pictures.
            groups: numbers of those that are pruned together, as frames of a video; each picture is in one.
            plan: how.

        Raises:
            RequestError: a picture that cannot be read, or a budget or method that does not fit it.
            ModelError, MissingExtraError: see `encoder`.
            VisionError: the encoder's numbers cannot be used.
            GivenUpError: nobody waits any more; the work ends between two pictures.
        """
        began = time.perf_counter()
        found = self._found(files, groups, plan)
        items, encoded, reading = self._encode(self._unknown(files, groups, found))
        encoding = time.perf_counter() - began - reading
        self._prune(files, groups, plan, found, items)
        pruning = time.perf_counter() - began - reading - encoding
        steps = {"vision-read": reading, "vision-encode": encoding, "vision-prune": pruning}
        return _reduction(files, groups, found, encoded, steps)

    def item(self, file: File) -> Item:
        """All tokens of one picture; raises what `__call__` raises."""
        name = self._name(file, [0])
        return self._encode({name: file})[0][name]

    def _name(self, file: File, group: Sequence[int]) -> Name:
        """What a picture is known by: its file and, where that matters, whether it is a frame of a video."""
        return (file.sha256, _FRAME) if len(group) > 1 and self.encoder().frames_differ else (file.sha256,)

    def _unknown(
        self, files: Sequence[File], groups: Sequence[Sequence[int]], found: dict[int, list[Rows]]
    ) -> dict[Name, File]:
        """The files of the groups that are not found."""
        left = [group for number, group in enumerate(groups) if number not in found]
        return {self._name(files[i], group): files[i] for group in left for i in group}

    def _found(
        self, files: Sequence[File], groups: Sequence[Sequence[int]], plan: Plan
    ) -> dict[int, list[Rows]]:
        """What is left of the groups of which that is known."""
        known = {
            n: self._get((plan.key, *(files[i].sha256 for i in group))) for n, group in enumerate(groups)
        }
        return {n: rows for n, rows in known.items() if rows is not None}

    def _prune(
        self,
        files: Sequence[File],
        groups: Sequence[Sequence[int]],
        plan: Plan,
        found: dict[int, list[Rows]],
        items: dict[Name, Item],
    ) -> None:
        """Add what is left of the other groups to ``found``."""
        for number, group in enumerate(groups):
            if number in found:
                continue
            look()
            names = [files[i].sha256 for i in group]
            mine = [items[self._name(files[i], group)] for i in group]
            found[number] = self._reduce(mine, names, plan)
            size = sum(_BYTES_PER_ENTRY + len(r.payload or "") + 8 * len(r.kept) for r in found[number])
            self._put((plan.key, *names), found[number], size)

    def _get(self, key: tuple[str, ...]) -> Any:
        with self._lock:
            return self._cache.get(key)

    def _put(self, key: tuple[str, ...], value: Any, size: int) -> None:
        with self._lock:
            self._cache.put(key, value, size)

    def _encode(self, files: dict[Name, File]) -> tuple[dict[Name, Item], int, float]:
        """The tokens of pictures, how many were encoded for it, and the seconds of reading files."""
        items: dict[Name, Item] = {}
        reading = 0.0
        encoded = 0
        left = list(files)
        while left:
            began = time.perf_counter()
            ready: dict[Name, Prepared] = {}
            while left and sum(len(prepared.pixels) for prepared in ready.values()) < _BATCH:
                look()
                name = left.pop(0)
                known = self._get(name)
                if known is None:
                    # One whole picture at a time; what is prepared is as small as the encoder's input.
                    image = decode(files[name], self._settings)
                    ready[name] = self.encoder().prepare(image, frame=_FRAME in name)
                else:
                    items[name] = known
            reading += time.perf_counter() - began
            with self._turn():
                for name in list(ready):
                    known = self._get(name)  # another request may have had the same picture
                    if known is not None:
                        items[name] = known
                        del ready[name]
                if ready:
                    made = self.encoder().encode_prepared(list(ready.values()))
                    for name, mine in zip(ready, made, strict=True):
                        mine = replace(mine, tokens=_alone(mine.tokens))
                        items[name] = mine
                        self._put(name, mine, _tensor_bytes(mine.tokens))
            encoded += len(ready)
        return items, encoded, reading

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """The encoder for oneself, for one batch: it uses all cores."""
        while not self._encoding.acquire(timeout=_LOOK_S):
            look()
        try:
            look()
            yield
        finally:
            self._encoding.release()

    def _reduce(self, pictures: Sequence[Item], names: Sequence[str], plan: Plan) -> list[Rows]:
        from tokenprune.vision.items import film

        item = pictures[0] if len(pictures) == 1 else film(pictures)
        tokens = item.tokens
        reduced = plan.method.reduce(tokens, plan.keep)
        if not len(reduced):
            raise VisionError(f"vision method {plan.name!r} leaves nothing of a picture")
        read = item.read(reduced)[1].features
        payload = encode_rows(read, self.encoder().dimension)
        note = more_than_asked(plan.name, plan.keep, len(tokens), len(reduced))
        merged, size = reduced.merged, len(tokens) // len(names)
        views = tokens.views or (tokens.grid[1:],)
        out = []
        for number, name in enumerate(names):
            mine = (reduced.keep // size == number).nonzero().flatten()
            kept = tuple((reduced.keep[mine] - number * size).tolist())
            # The line of a video ends with its last frame.
            lines, ends = (len(item.lines), len(read) - len(reduced)) if number == len(names) - 1 else (0, 0)
            first = payload if number == 0 else None
            out.append(Rows(name, views, size + lines, kept, ends, int(merged[mine].sum()), first, note))
        return out


def _reduction(
    files: Sequence[File],
    groups: Sequence[Sequence[int]],
    found: dict[int, list[Rows]],
    encoded: int,
    steps: dict[str, float],
) -> Reduction:
    by_picture = {i: rows for n, group in enumerate(groups) for i, rows in zip(group, found[n], strict=True)}
    counts = tuple(sum(rows.after for rows in found[number]) for number in range(len(groups)))
    return Reduction(tuple(by_picture[i] for i in range(len(files))), counts, encoded, steps)


def probe_picture() -> Image:
    """A small picture with a gradient in each direction, to compare what two encoders make of it."""
    from PIL import Image

    size = _PROBE_SIZE
    picture = Image.new("RGB", (size, size))
    picture.putdata(
        [(x * 255 // size, y * 255 // size, (x ^ y) * 255 // size) for y in range(size) for x in range(size)]
    )
    return picture


def _alone(tokens: VisualTokens) -> VisualTokens:
    """The tokens of one picture without those of its batch, of which its tensors are views."""
    parts = {name: getattr(tokens, name) for name in _TENSORS}
    return replace(tokens, **{name: part.clone() for name, part in parts.items() if part is not None})


def _tensor_bytes(tokens: VisualTokens) -> int:
    parts = (getattr(tokens, name) for name in _TENSORS)
    return _BYTES_PER_ENTRY + sum(int(p.nbytes) for p in parts if p is not None)
