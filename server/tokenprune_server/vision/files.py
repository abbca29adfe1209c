"""The files of a request's pictures: read from data URLs, refused by their headers, decoded."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tokenprune.errors import ImageError
from tokenprune_server.errors import RequestError
from tokenprune_server.vision.parts import Picture, refused
from tokenprune_server.vision.settings import VisionSettings

if TYPE_CHECKING:
    from PIL.Image import Image

    from tokenprune.vision.images import ImageLimits


@dataclass(frozen=True, slots=True)
class File:
    """The file of a picture.

    Attributes:
        place: where it stood in the request.
        data: its bytes.
        sha256: of these.
        pixels: that it will have when it is decoded.
    """

    place: str
    data: bytes
    sha256: str
    pixels: int


def open_files(
    pictures: Sequence[Picture], fetched: Sequence[bytes | None], settings: VisionSettings
) -> list[File]:
    """The files of pictures, checked by all that can be seen without decoding them.

    The checks hold for pictures that are known from before as well: what is answered does not depend on the
    cache.

    Args:
        pictures: of a request.
        fetched: what came of those given by http(s) URL; None for those in data URLs.
        settings: the limits.

    Raises:
        RequestError: a picture that cannot be used, or more pixels than a request may have.
    """
    limits = _limits(settings)
    files = [_open(picture, data, limits) for picture, data in zip(pictures, fetched, strict=True)]
    # A picture that comes several times is decoded once.
    total = sum({file.sha256: file.pixels for file in files}.values())
    if total > settings.max_total_pixels:
        raise RequestError(
            f"the pictures of the request have {total:,} pixels in all, and this server reads "
            f"{settings.max_total_pixels:,} (setting server.vision.max_total_pixels): make them smaller or "
            "send fewer",
            param="messages",
        )
    return files


def decode(file: File, settings: VisionSettings) -> Image:
    """The picture in a file, RGB and upright; raises RequestError when it is damaged."""
    from tokenprune.vision.images import read_image

    try:
        return read_image(file.data, limits=_limits(settings)).image
    except ImageError as error:
        raise _unusable(file.place, error) from error


def _open(picture: Picture, fetched: bytes | None, limits: ImageLimits) -> File:
    from tokenprune.vision.images import data_url_bytes, read_header

    try:
        data, declared = data_url_bytes(picture.url, limits) if fetched is None else (fetched, "")
        header = read_header(data, declared, limits)
    except ImageError as error:
        raise _unusable(picture.place, error) from error
    if header.animated:
        raise refused(
            picture.place, f"cannot be used: it is an animated {header.kind}; send its frames as pictures"
        )
    return File(picture.place, data, hashlib.sha256(data).hexdigest(), header.pixels)


def _limits(settings: VisionSettings) -> ImageLimits:
    from tokenprune.vision.images import ImageLimits

    return ImageLimits(settings.max_image_bytes, settings.max_pixels)


def _unusable(place: str, error: ImageError) -> RequestError:
    return refused(place, f"cannot be used: {error}")
