"""The excerpts that ship with the package (see data/workloads/README.md), read once and counted once."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any
from zlib import crc32

import numpy as np

from tokenprune.tokens import get_counter

FOLDER = ("data", "workloads")


@cache
def rows(name: str) -> tuple[dict[str, Any], ...]:
    """Return the rows of a file of excerpts; they are shared and must not be changed."""
    packed = resources.files("tokenprune").joinpath(*FOLDER, f"{name}.jsonl.gz").read_bytes()
    return tuple(json.loads(line) for line in gzip.decompress(packed).decode().splitlines())


def generator(seed: int, *names: str) -> np.random.Generator:
    """Return a generator of its own for what the names say."""
    return np.random.default_rng([seed, *(crc32(name.encode()) for name in names)])


@dataclass(frozen=True)
class Chunk:
    """A piece of text that a prompt can be filled up with.

    Attributes:
        text: the piece.
        title: where it is from.
        tokens: of the text and its title.
    """

    text: str
    title: str
    tokens: int


def chunks(texts: Sequence[tuple[str, str]]) -> tuple[Chunk, ...]:
    """Count (title, text) pairs."""
    tokens = get_counter().count_many([f"{title}\n{text}" for title, text in texts])
    return tuple(Chunk(x, t, int(n)) for (t, x), n in zip(texts, tokens, strict=True))


def filled(wanted: Sequence[Chunk], pool: Sequence[Chunk], room: int, overhead: int) -> list[Chunk]:
    """Return what is wanted and, in the order of the pool, what still fits ``room`` tokens.

    Args:
        wanted: always there, whatever the room.
        pool: the others.
        room: tokens of all together.
        overhead: tokens that a label adds to each.
    """
    taken = list(wanted)
    left = room - sum(c.tokens + overhead for c in wanted)
    seen = {c.text for c in wanted}
    for chunk in pool:
        if chunk.text not in seen and chunk.tokens + overhead <= left:
            taken.append(chunk)
            seen.add(chunk.text)
            left -= chunk.tokens + overhead
    return taken
