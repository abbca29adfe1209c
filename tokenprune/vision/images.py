"""Reading pictures that strangers send: bytes, data URLs and files -> RGB, or one clear error.

Everything is decided from the header before a pixel is decoded, so that a small file that unpacks to a huge
picture costs nothing.
"""

from __future__ import annotations

import base64
import binascii
import io
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from tokenprune.errors import ImageError, MissingExtraError

if TYPE_CHECKING:
    from PIL.Image import Image

# what is opened, and the media type that names it
FORMATS = {
    "PNG": "image/png",
    "JPEG": "image/jpeg",
    "WEBP": "image/webp",
    "GIF": "image/gif",
    "BMP": "image/bmp",
}
_ALIASES = {"image/jpg": "image/jpeg", "image/x-png": "image/png", "image/x-ms-bmp": "image/bmp"}
# what Pillow raises for damaged files of these formats
_DAMAGED = (OSError, SyntaxError, ValueError, TypeError, IndexError, KeyError, struct.error, zlib.error)
_OPENING = threading.Lock()  # what warnings are shown is a matter of the whole process
_BACKGROUND = (255, 255, 255)  # behind transparent pixels, as vLLM has it


@dataclass(frozen=True)
class ImageLimits:
    """What is refused.

    Attributes:
        max_bytes: of the file.
        max_pixels: width times height; Pillow has a limit of its own, 178,956,970.
        min_side: pixels of the shorter side; below 4, image processors mistake rows for colour channels.
        max_aspect: longer by shorter side: the shorter one is scaled up to the encoder's size.
        max_frames: of an animation that is read as a video.
        type_must_match: whether a declared media type must be the content's own.
    """

    max_bytes: int = 20_000_000
    max_pixels: int = 40_000_000
    min_side: int = 4
    max_aspect: float = 100.0
    max_frames: int = 64
    type_must_match: bool = True


@dataclass(frozen=True)
class Header:
    """What the beginning of a file says of its picture.

    Attributes:
        kind: a key of `FORMATS`.
        width: pixels, before it is turned upright.
        height: likewise.
        animated: whether there is more than one frame.
    """

    kind: str
    width: int
    height: int
    animated: bool

    @property
    def pixels(self) -> int:
        """Of one frame."""
        return self.width * self.height


@dataclass(frozen=True)
class Picture:
    """A picture that was read.

    Attributes:
        image: RGB, upright, decoded.
        kind: a key of `FORMATS`.
        notes: what was left out or changed, in words; empty for most.
    """

    image: Image
    kind: str
    notes: tuple[str, ...] = ()


def data_url_bytes(url: str, limits: ImageLimits | None = None) -> tuple[bytes, str]:
    """Return the content of a base64 data URL, and the media type it declares ("" for none).

    Raises:
        ImageError: not a data URL, not base64, or larger than the limit; the latter is seen from its length.
    """
    limits = limits or ImageLimits()
    head, comma, body = url.partition(",")
    if not head[:5].lower() == "data:" or not comma:
        raise ImageError("the image is not a data URL: it must look like data:image/png;base64,...")
    kind, *parameters = head[5:].split(";")
    if "base64" not in [p.strip().lower() for p in parameters]:
        raise ImageError("the data URL of the image is not base64: write data:image/png;base64,...")
    if len(body) > 4 * limits.max_bytes + 4:  # each sign percent-encoded: decoding more would cost memory
        raise _too_large(len(body) // 4, limits)
    try:
        raw = unquote_to_bytes(body) if "%" in body else body.encode("ascii")
        raw = b"".join(raw.split())
        if len(raw) // 4 * 3 > limits.max_bytes + 3:
            raise _too_large(len(raw) // 4 * 3, limits)
        data = base64.b64decode(raw, validate=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise ImageError(f"the data URL of the image is not valid base64: {error}") from None
    return data, kind.strip().lower()


def read_data_url(url: str, limits: ImageLimits | None = None) -> Picture:
    """Read a picture from a base64 data URL; raises what `data_url_bytes` and `read_image` raise."""
    data, declared = data_url_bytes(url, limits)
    return read_image(data, declared, limits)


def read_file(path: str | Path, limits: ImageLimits | None = None) -> Picture:
    """Read a picture from a file.

    Raises:
        ImageError: the file cannot be read, or what `read_image` refuses.
    """
    return read_image(_file_bytes(path, limits or ImageLimits()), "", limits)


def read_video_file(path: str | Path, limits: ImageLimits | None = None) -> list[Image]:
    """Read all frames of an animated GIF, PNG or WEBP; a still picture is a video of one frame.

    Raises:
        ImageError: what `read_file` refuses, or more frames or, over all frames, pixels than the limits.
    """
    limits = limits or ImageLimits()
    data = _file_bytes(path, limits)
    image, kind = _opened(data, "", limits)
    out: list[Image] = []
    pixels = 0
    try:
        frames = int(getattr(image, "n_frames", 1)) if kind != "JPEG" else 1
        _check_frames(frames, frames * image.width * image.height, image, limits)
        for number in range(frames):
            with _too_many_pixels(limits):
                image.seek(number)
            pixels += image.width * image.height  # a GIF grows with a frame that stands out
            _check_frames(frames, pixels, image, limits)
            out.append(_rgb(_upright(image.copy(), [])))
        return out
    except (*_DAMAGED, EOFError, MemoryError) as error:
        raise _damaged(error) from None


@contextmanager
def _too_many_pixels(limits: ImageLimits) -> Iterator[None]:
    """Have Pillow's own limit raise our error."""
    from PIL import Image as pil

    try:
        # Pillow warns of many pixels, by a limit of its own, before ours is looked at.
        with _OPENING, warnings.catch_warnings():
            warnings.simplefilter("ignore", pil.DecompressionBombWarning)
            yield
    except pil.DecompressionBombError:
        most = min(limits.max_pixels, 2 * (pil.MAX_IMAGE_PIXELS or limits.max_pixels))
        raise ImageError(f"the image has far more than {most:,} pixels: make it smaller") from None


def _check_frames(frames: int, pixels: int, image: Image, limits: ImageLimits) -> None:
    if frames > limits.max_frames or pixels > limits.max_pixels:
        raise ImageError(
            f"the animation has {frames} frames of {image.width:,} x {image.height:,} pixels; at most "
            f"{limits.max_frames} frames and {limits.max_pixels:,} pixels in all are read"
        )


def _file_bytes(path: str | Path, limits: ImageLimits) -> bytes:
    try:
        with Path(path).open("rb") as file:
            return file.read(limits.max_bytes + 1)
    except OSError as error:
        raise ImageError(f"cannot read the image {str(path)!r}: {error.strerror or error}") from None


def read_header(data: bytes, declared: str = "", limits: ImageLimits | None = None) -> Header:
    """Check a file as `read_image` does and raise what it raises, but decode no pixel."""
    image, kind = _opened(data, declared, limits or ImageLimits())
    try:
        return Header(kind, *image.size, _is_animated(image, kind))
    except (*_DAMAGED, EOFError, MemoryError) as error:
        raise _damaged(error) from None


def read_image(data: bytes, declared: str = "", limits: ImageLimits | None = None) -> Picture:
    """Decode a picture: upright (EXIF), transparency on white, 16 bits scaled to 8, first frame if animated.

    Args:
        data: the file's content.
        declared: media type it was sent as; "" for unknown.
        limits: what is refused; the defaults of `ImageLimits` when None.

    Raises:
        ImageError: empty, too large, too small, no format of `FORMATS`, sent as another type, or damaged.
        MissingExtraError: Pillow is not installed.
    """
    image, kind = _opened(data, declared, limits or ImageLimits())
    notes: list[str] = []
    try:
        if _is_animated(image, kind):
            notes.append(f"animated {kind}: only its first frame is read")
            image.seek(0)
        # No `Image.draft`: what a JPEG decoder makes smaller is not, to the bit, what the processor would.
        image.load()
        upright = _upright(image, notes)
        return Picture(_rgb(upright), kind, tuple(notes))
    except (*_DAMAGED, EOFError, MemoryError) as error:
        raise _damaged(error) from None


def _is_animated(image: Image, kind: str) -> bool:
    # the further pictures of an MPO file are no frames
    return kind != "JPEG" and bool(getattr(image, "is_animated", False))


def _opened(data: bytes, declared: str, limits: ImageLimits) -> tuple[Image, str]:
    """Read the header only, and check what it says; returns the picture and a key of `FORMATS`."""
    try:
        from PIL import Image as pil
        from PIL import UnidentifiedImageError
    except ImportError as error:
        raise MissingExtraError("reading pictures", "vision", error.name or "PIL") from error

    if not data:
        raise ImageError("the image is empty")
    if len(data) > limits.max_bytes:
        raise _too_large(len(data), limits)
    try:
        with _too_many_pixels(limits):
            image = pil.open(io.BytesIO(data), formats=tuple(FORMATS))
    except UnidentifiedImageError:
        raise ImageError(f"the image is none of {', '.join(FORMATS)}, or its beginning is damaged") from None
    except _DAMAGED as error:
        raise _damaged(error) from None
    kind = "JPEG" if image.format == "MPO" else str(image.format)
    _check_type(declared, kind, limits)
    _check_size(*image.size, limits)
    return image, kind


def _check_type(declared: str, kind: str, limits: ImageLimits) -> None:
    plain = declared.partition(";")[0].strip().lower()
    plain = _ALIASES.get(plain, plain)
    if limits.type_must_match and plain and plain != FORMATS[kind]:
        raise ImageError(f"the image was sent as {plain!r} but is {FORMATS[kind]!r}: correct the media type")


def _check_size(width: int, height: int, limits: ImageLimits) -> None:
    if width * height > limits.max_pixels:
        raise ImageError(
            f"the image has {width:,} x {height:,} pixels; at most {limits.max_pixels:,} are read: "
            "make it smaller"
        )
    short, long = sorted((width, height))
    if short < limits.min_side:
        raise ImageError(
            f"the image has {width:,} x {height:,} pixels; its sides must be at least {limits.min_side}"
        )
    if long > limits.max_aspect * short:
        raise ImageError(
            f"the image has {width:,} x {height:,} pixels; one side may be {limits.max_aspect:g} times the "
            "other at most"
        )


def _upright(image: Image, notes: list[str]) -> Image:
    from PIL import ImageOps

    try:
        return ImageOps.exif_transpose(image)
    except _DAMAGED as error:
        notes.append(f"its EXIF data cannot be read, so it is taken as upright ({error})")
        return image


def _rgb(image: Image) -> Image:
    from PIL import Image as pil

    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range")
    if image.mode.startswith("I"):
        import numpy as np

        values = np.asarray(image).astype(np.int64).clip(0, 65535)
        clear = image.info.get("transparency")
        if isinstance(clear, int):
            values[values == clear] = 65535
        return pil.fromarray((values // 257).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        seen = image.convert("RGBA")
        ground = pil.new("RGBA", seen.size, (*_BACKGROUND, 255))
        return pil.alpha_composite(ground, seen).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _too_large(size: int, limits: ImageLimits) -> ImageError:
    return ImageError(f"the image has {size:,} bytes or more; at most {limits.max_bytes:,} are read")


def _damaged(error: Exception) -> ImageError:
    return ImageError(f"the image is damaged or not supported: {str(error) or type(error).__name__}")
