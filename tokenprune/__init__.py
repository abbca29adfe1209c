"""tokenprune: token and context pruning middleware for LLM inference and RAG."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenprune.budget import Budget
    from tokenprune.config import Config, load_config
    from tokenprune.document import Document
    from tokenprune.errors import TokenPruneError
    from tokenprune.pipeline import Pipeline
    from tokenprune.pruners.base import Pruner
    from tokenprune.receipt import PruneResult, Receipt, UnitRecord
    from tokenprune.registry import PrunerInfo, list_pruners, named, pruner
    from tokenprune.units import Units

__version__ = "0.1.0"

# Loaded on first use: `import tokenprune` stays cheap.
_WHERE = {
    "Budget": "budget",
    "Config": "config",
    "Document": "document",
    "Pipeline": "pipeline",
    "PruneResult": "receipt",
    "Pruner": "pruners.base",
    "PrunerInfo": "registry",
    "Receipt": "receipt",
    "TokenPruneError": "errors",
    "UnitRecord": "receipt",
    "Units": "units",
    "list_pruners": "registry",
    "load_config": "config",
    "named": "registry",
    "pruner": "registry",
}

__all__ = [
    "Budget",
    "Config",
    "Document",
    "Pipeline",
    "PruneResult",
    "Pruner",
    "PrunerInfo",
    "Receipt",
    "TokenPruneError",
    "UnitRecord",
    "Units",
    "list_pruners",
    "load_config",
    "named",
    "pruner",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for."""
    if name not in _WHERE:
        raise AttributeError(f"module 'tokenprune' has no attribute {name!r}")
    value = getattr(import_module(f"tokenprune.{_WHERE[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
