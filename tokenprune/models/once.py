"""Models that are loaded once in a process, however many ask for them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Generic, TypeVar

Loaded = TypeVar("Loaded")
_FILES = ("*.safetensors", "*.json")


def state_of(name_or_path: str) -> tuple[tuple[str, int, int], ...]:
    """Return names, times (ns) and sizes (bytes) of the files of a model in a folder, for keys of `Once`.

    Another model in the same folder is another one; what is no folder (a name, a hub id) has no state.
    """
    folder = Path(name_or_path)
    if not folder.is_dir():
        return ()
    found = sorted({file for pattern in _FILES for file in folder.glob(pattern)})
    return tuple((f.name, s.st_mtime_ns, s.st_size) for f in found if (s := f.stat()))


class Once(Generic[Loaded]):
    """What has been loaded, by key; it stays until the process ends. Safe to use from several threads."""

    def __init__(self) -> None:
        self._found: dict[Hashable, Loaded] = {}
        self._loading: dict[Hashable, threading.Event] = {}  # set once the load has ended, well or not
        self._lock = threading.Lock()

    def get(self, key: Hashable, load: Callable[[], Loaded]) -> Loaded:
        """Return what ``load`` made of ``key`` the first time; one that raises is tried again next time.

        Nobody waits here for the load of another key; loads themselves may take turns (`loading_alone`).
        """
        while True:
            with self._lock:
                if key in self._found:
                    return self._found[key]
                ended = self._loading.get(key)
                if ended is None:
                    ended = self._loading[key] = threading.Event()
                    break
            ended.wait()
        try:
            made = load()
            with self._lock:
                self._found[key] = made
            return made
        finally:
            with self._lock:
                del self._loading[key]
            ended.set()
