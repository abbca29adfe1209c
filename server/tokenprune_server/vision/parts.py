"""Pictures in the messages of a chat, and putting rows of numbers in their place."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokenprune_server.errors import RequestError
from tokenprune_server.protocols.base import Body, Path, replaced, value_at

_URL_KINDS = ("image_url", "input_image")
# What vLLM takes as a picture besides; it does not take these and embeddings in one request.
_OTHER_KINDS = ("image", "image_pil")
_AROUND = len('{"type":"image_url","image_url":{"url":""}},')


@dataclass(frozen=True, slots=True)
class Picture:
    """An ``image_url`` part.

    Attributes:
        path: where the part is in the request's JSON: ``("messages", m, "content", n)``.
        url: a data URL or an http(s) URL.
    """

    path: Path
    url: str

    @property
    def place(self) -> str:
        """The path, for people."""
        return ".".join(str(step) for step in self.path)

    @property
    def remote(self) -> bool:
        """Whether the picture would have to be fetched."""
        return self.url[:8].lower().startswith(("http://", "https://"))


@dataclass(frozen=True, slots=True)
class Found:
    """Pictures of a chat.

    Attributes:
        pictures: those given by URL, in order.
        embeds: ``image_embeds`` parts that the client itself sends, with their paths.
        others: parts with pictures that cannot be read here.
    """

    pictures: tuple[Picture, ...]
    embeds: tuple[tuple[Path, Any], ...]
    others: int

    def __bool__(self) -> bool:
        return bool(self.pictures or self.embeds)

    @property
    def size(self) -> int:
        """Characters of pictures and rows in the request, and of the JSON around them (at least)."""
        rows = sum(len(payload) for _, payload in self.embeds if isinstance(payload, str))
        urls = sum(len(picture.url) for picture in self.pictures)
        return rows + urls + _AROUND * (len(self.embeds) + len(self.pictures))


def find(body: Body) -> Found:
    """Find the pictures of a chat; never raises on odd bodies (what is odd is no picture)."""
    pictures: list[Picture] = []
    embeds: list[tuple[Path, Any]] = []
    others = 0
    messages = body.get("messages")
    for index, message in enumerate(messages if isinstance(messages, list) else ()):
        content = message.get("content") if isinstance(message, dict) else None
        for number, part in enumerate(content if isinstance(content, list) else ()):
            if not isinstance(part, dict):
                continue
            path: Path = ("messages", index, "content", number)
            kind = part.get("type")
            if kind == "image_embeds":
                embeds.append((path, part.get("image_embeds")))
            elif kind in _URL_KINDS or (kind is None and "image_url" in part):
                url = part.get("image_url")
                url = url.get("url") if isinstance(url, dict) else url
                if isinstance(url, str) and url:
                    pictures.append(Picture(path, url))
                else:
                    others += 1  # one that the upstream knows by its uuid
            elif kind in _OTHER_KINDS:
                others += 1
    return Found(tuple(pictures), tuple(embeds), others)


def runs(pictures: Sequence[Picture]) -> list[list[int]]:
    """Numbers of the pictures of each run: those that follow each other in a message with no part between."""
    groups: list[list[int]] = []
    for number, picture in enumerate(pictures):
        before = pictures[number - 1].path if number else ()
        if before and picture.path == (*before[:-1], int(before[-1]) + 1):
            groups[-1].append(number)
        else:
            groups.append([number])
    return groups


def put(body: Body, payloads: Mapping[Path, str | None]) -> Body:
    """A copy of the body with rows in place of pictures.

    Args:
        body: the request.
        payloads: for each part's path its rows in base64; None: the part goes (a frame of a video, whose rows
            stand in the place of its first).
    """
    gone: dict[Path, set[int]] = {}
    for path, payload in payloads.items():
        if payload is None:
            gone.setdefault(path[:-1], set()).add(int(path[-1]))
        else:
            # A "uuid" names the picture in the upstream's cache, where other rows of it may be: it goes.
            body = replaced(body, path, {"type": "image_embeds", "image_embeds": payload})
    for where, numbers in gone.items():
        parts = value_at(body, where)
        body = replaced(body, where, [part for n, part in enumerate(parts) if n not in numbers])
    return body


def refused(place: str, why: str) -> RequestError:
    """The error for a picture that cannot be used."""
    return RequestError(f"the picture at {place} {why}", param=place)
