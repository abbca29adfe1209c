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

_OURS = "tokenprune.weights.hf_model"
_THEIRS = "transformers."
# Any of them may be what a program imports first, and be imported by another module of transformers that ours
# needs whole: ours follows when none of transformers' modules is half done.
_AWAITED = frozenset(
    f"transformers.models.{name}"
    for name in (
        "auto.configuration_auto",
        "auto.modeling_auto",
        "llama.configuration_llama",
        "mistral.configuration_mistral",
        "qwen2.configuration_qwen2",
        "qwen3.configuration_qwen3",
    )
)


class _Watch(MetaPathFinder):
    """Finds nothing but modules of transformers, which it has the other finders find."""

    def __init__(self) -> None:
        self._searching = False
        self.half_done = 0

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if not fullname.startswith(_THEIRS) or self._searching:
            return None
        self._searching = True
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self._searching = False
        if spec is not None and spec.loader is not None:
            spec.loader = _Then(spec.loader, self)
        return spec


class _Then(Loader):
    """Runs a module with its own loader, and then ours."""

    def __init__(self, loader: Loader, watch: _Watch) -> None:
        self._loader, self._watch = loader, watch

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._watch.half_done += 1
        try:
            self._loader.exec_module(module)
        finally:
            self._watch.half_done -= 1
        if not self._watch.half_done and _OURS not in sys.modules and _AWAITED & set(sys.modules):
            importlib.import_module(_OURS)


def register_when_used() -> None:
    """Register our classes with ``Auto*`` now if transformers' are loaded, else as soon as they are."""
    if _AWAITED & set(sys.modules):
        importlib.import_module(_OURS)
    elif not any(isinstance(finder, _Watch) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Watch())
