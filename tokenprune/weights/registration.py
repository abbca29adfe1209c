"""Tell transformers about our classes when, and only if, it is used.

Transformers has no entry points for models, so importing `tokenprune.weights` has to be enough; but importing
transformers costs seconds, which a user who lists recipes or reads help should not pay.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from types import ModuleType

# When the first is imported, ``Auto*`` exists and the second registers with it.
_THEN = {
    "transformers.models.auto.configuration_auto": "tokenprune.weights.hf_config",
    "transformers.models.auto.modeling_auto": "tokenprune.weights.hf_model",
}


class _Then(Loader):
    """Runs a module with its own loader, then imports another."""

    def __init__(self, loader: Loader, following: str) -> None:
        self._loader, self._following = loader, following

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        importlib.import_module(self._following)


class _Watch(MetaPathFinder):
    """Finds nothing but the awaited modules."""

    def __init__(self) -> None:
        self._searching = False

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in _THEN or self._searching:
            return None
        self._searching = True  # the other finders are asked through the same door
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self._searching = False
        if spec is not None and spec.loader is not None:
            spec.loader = _Then(spec.loader, _THEN[fullname])
        return spec


def register_when_used() -> None:
    """Register our classes with ``Auto*`` now if it is loaded, else as soon as it is."""
    for awaited, following in _THEN.items():
        if awaited in sys.modules:
            importlib.import_module(following)
    if not any(isinstance(finder, _Watch) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Watch())
