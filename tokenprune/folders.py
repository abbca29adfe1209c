"""Where things are written: folders whole or not at all, pictures with an ending."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from pathlib import Path

from tokenprune.errors import ModelError

# Files of a checkpoint that go where its weights go.
LICENCES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE", "NOTICE", "USE_POLICY.md")
# What a model's folder holds; anything else in it is somebody's own.
_TEXTS = ("README.md", "merges.txt", "vocab.txt")
_MODELS = (*LICENCES, *_TEXTS, "*.json", "*.safetensors", "*.jinja", "*.model", ".git*")


def picture_file(path: str | Path) -> Path:
    """Return the file that a picture is drawn to: PNG where no ending says otherwise.

    Raises:
        ValueError: It is a folder.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        raise ValueError("it is a folder; name a file in it")
    return path if path.suffix else path.with_name(f"{path.name}.png")


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a place beside a file to write it to; it takes the file's place when all went well."""
    part = path.with_name(f"{path.name}.part")
    yield part
    part.replace(path)


@contextmanager
def whole_folder(place: Path) -> Iterator[Path]:
    """Give a new folder to fill, which becomes ``place`` (and replaces what is there) at the end.

    It is made under another name beside its place and renamed after its files have reached the disk: whoever
    stops in between, for want of space or by hand, leaves no folder that looks whole. All of its files may be
    read by whoever may read the folder: safetensors writes for the owner alone, who is often not the one that
    serves the model.

    Raises:
        ModelError: the folder cannot be made.
        OSError: it cannot be written or put into its place; the old one is still there then.
    """
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{place.name}-partial-", dir=place.parent))
    except OSError as error:
        raise ModelError(f"cannot write to {place.parent}: {error}; choose another folder") from error
    try:
        out = work / "model"
        out.mkdir()
        yield out
        _share(out)
        _sync(out)
        _into_place(out, place, work)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def check_place(place: Path, overwrite: bool, marker: str, what: str) -> None:
    """Refuse a place where something is, but for a folder that may be overwritten.

    Args:
        place: where a folder shall be written.
        overwrite: a folder that holds the file ``marker`` may be replaced; nothing else ever is.
        marker: name of a file.
        what: name of what such a folder is, for the message.

    Raises:
        ModelError: nothing may be written there, or files would be lost that belong to no model.
    """
    if not place.exists() and not place.is_symlink():
        return
    if place.is_dir() and not place.is_symlink() and not any(place.iterdir()):
        return
    if not overwrite:
        raise ModelError(f"{place} exists; choose another folder or say that it may be overwritten")
    if not (place / marker).is_file():
        raise ModelError(f"{place} is no {what} (it has no {marker}) and is not overwritten; remove it first")
    others = [p.name for p in place.iterdir() if not any(fnmatch(p.name, like) for like in _MODELS)]
    if others:
        raise ModelError(
            f"{place} holds {', '.join(sorted(others))} beside the {what}: move that first, it would be lost"
        )


def _share(folder: Path) -> None:
    """Let all files be read by whoever may read the folder."""
    mode = folder.stat().st_mode & 0o666
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(mode)


def _sync(folder: Path) -> None:
    """Wait until all files are on the disk; what does not fit shows here at the latest."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())


def _into_place(out: Path, place: Path, work: Path) -> None:
    replaced = work / "replaced"
    if place.exists():
        place.rename(replaced)
    try:
        out.replace(place)
    except BaseException:
        with suppress(OSError):
            if replaced.exists():
                replaced.rename(place)
        raise
