"""Rendered scenes on disk, so that training does not wait for drawing."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from benchmarks.vision.scenes import SIDE, Pixels, Scene, Split, crowd, picture, video

MAKERS: dict[str, Callable[[Split, int], Scene]] = {"picture": picture, "video": video, "crowd": crowd}
FRAMES = {"picture": 1, "video": 4, "crowd": 1}
_SHARD = 250


def prepared(folder: Path, kind: str, split: Split, count: int, workers: int = 2) -> Pixels:
    """Return the first ``count`` scenes of a split, [count, frames, 224, 224, 3], drawn once and mapped."""
    path = folder / f"{kind}-{split}-{count}.npy"
    shape = (count, FRAMES[kind], SIDE, SIDE, 3)
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        whole = np.lib.format.open_memmap(partial, mode="w+", dtype=np.uint8, shape=shape)
        starts = range(0, count, _SHARD)
        jobs = [(kind, split, start, min(start + _SHARD, count)) for start in starts]
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            for (_, _, start, end), drawn in zip(jobs, pool.map(_draw, jobs), strict=True):
                whole[start:end] = drawn
        whole.flush()
        partial.rename(path)
    return np.load(path, mmap_mode="r")


def _draw(job: tuple[str, Split, int, int]) -> Pixels:
    kind, split, start, end = job
    return np.stack([np.stack(MAKERS[kind](split, number).render()) for number in range(start, end)])
