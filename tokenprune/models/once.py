"""Models that are loaded once in a process, however many ask for them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Loaded = TypeVar("Loaded")


class Once(Generic[Loaded]):
    """What has been loaded, by key; it stays until the process ends. Safe to use from several threads."""

    def __init__(self) -> None:
        self._found: dict[Hashable, Loaded] = {}
        self._lock = threading.Lock()

    def get(self, key: Hashable, load: Callable[[], Loaded]) -> Loaded:
        """Return what ``load`` made of ``key`` the first time; one that raises is tried again next time."""
        with self._lock:
            if key not in self._found:
                self._found[key] = load()
            return self._found[key]
