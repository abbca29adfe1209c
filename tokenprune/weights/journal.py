"""What long work keeps on disk, so that a run that was stopped goes on where it was."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenprune import __version__
from tokenprune.errors import RecipeError

if TYPE_CHECKING:
    import torch


class CheckpointError(RecipeError):
    """A checkpoint cannot be written or read, or is another run's."""


class Journal:
    """A folder of finished steps by name; without a folder nothing is kept and all is done anew."""

    def __init__(self, folder: Path | None = None, mark: str = "", prefix: str = "") -> None:
        """Open or begin a journal.

        Args:
            folder: Where; None: nowhere.
            mark: Tells runs apart, see `mark_of`.
            prefix: Begins the names of all steps.

        Raises:
            CheckpointError: The folder belongs to another run.
        """
        self._folder, self._mark, self._prefix = folder, mark, prefix
        self._run = None if folder is None else folder / "run.pt"
        if self._run is not None and not prefix and self._run.exists():
            read_state(self._run, mark, folder)

    def path(self, name: str) -> Path | None:
        """Return the file of a step, there or not; None without a folder."""
        return None if self._folder is None else self._folder / f"{self._prefix}{name}.pt"

    def get(self, name: str) -> Any:
        """Return what was kept of a step, or None."""
        path = self.path(name)
        return None if path is None or not path.exists() else read_state(path, self._mark, self._folder)

    def put(self, name: str, value: Any) -> None:
        """Keep what a step gave: tensors, numbers, texts, lists and dicts of them."""
        path = self.path(name)
        if path is not None and self._run is not None:
            if not self._run.exists():  # nothing is written before something is finished
                write_state(self._run, self._mark, {})
            write_state(path, self._mark, value)

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """Return what was kept of a step, or else make and keep it."""
        found = self.get(name)
        if found is None:
            found = make()
            self.put(name, found)
        return found

    def forget(self, name: str) -> None:
        """Remove what was kept of a step."""
        path = self.path(name)
        if path is not None:
            path.unlink(missing_ok=True)

    def part(self, name: str) -> Journal:
        """Return a journal of steps inside of a step."""
        return Journal(self._folder, self._mark, f"{self._prefix}{name}.")

    def close(self) -> None:
        """Remove the folder: the work is done."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


def mark_of(model: Any, windows: torch.Tensor, settings: Any) -> str:
    """Tell runs apart: the weights of ``model``, the text [n, tokens], and ``settings`` that are JSON."""
    import torch

    digest = hashlib.sha256(json.dumps([__version__, settings], sort_keys=True).encode())
    digest.update(windows.numpy().tobytes())
    for name, parameter in model.named_parameters():
        digest.update(name.encode())
        digest.update(parameter.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def write_state(path: Path, mark: str, state: Any) -> None:
    """Write a state whole or not at all; raises CheckpointError."""
    import torch

    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"mark": mark, "state": state}, part)
        part.replace(path)
    except (OSError, RuntimeError) as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise CheckpointError(
            f"cannot write the checkpoint {path}: {error}; free some space, or choose another folder"
        ) from error


def read_state(path: Path, mark: str, whole: Path | None = None) -> Any:
    """Read a state of the same run; raises CheckpointError when it is another's, or damaged.

    Args:
        path: the file.
        mark: of the run.
        whole: the folder of a checkpoint of several files, all of the same run.
    """
    import torch

    try:
        found = torch.load(path, weights_only=True)
        other, state = found["mark"], found["state"]
    except (
        OSError,
        RuntimeError,
        KeyError,
        TypeError,
        EOFError,
        ValueError,
        pickle.UnpicklingError,
    ) as error:
        raise CheckpointError(
            f"cannot read the checkpoint {path}: it is damaged; remove {whole or path} to begin anew"
        ) from error
    if other != mark:
        raise CheckpointError(f"{whole or path} is the checkpoint of another run; remove it to begin anew")
    return state
