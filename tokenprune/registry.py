"""Names -> pruners, through the entry point group ``tokenprune.pruners``."""

from __future__ import annotations

import inspect
import logging
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, wraps
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, TypeVar

from pydantic import ValidationError, validate_call

from tokenprune.errors import ConfigError, UnknownNameError
from tokenprune.pruners.base import Pruner
from tokenprune.validation import faults, options_of

GROUP = "tokenprune.pruners"
# Modules of the methods that ship; each registers what it defines when it is imported.
_BUILTIN = (
    "baselines",
    "boilerplate",
    "bm25_sentences",
    "clean_html",
    "embed_sentences",
    "gemfilter",
    "htmlrag",
    "htmlrag_bm25",
    "htmlrag_embed",
    "hybrid",
    "lazyllm",
    "passages",
    "provence",
    "specprefill",
)


@dataclass(frozen=True)
class PrunerInfo:
    """What a method is.

    Attributes:
        name: what it is asked for by.
        kinds: document kinds it accepts.
        models: named models it needs ("" none).
        paper: where it comes from.
        summary: one line.
        options: keyword arguments of the method, as ``name=default`` or ``name (required)``.
    """

    name: str
    kinds: tuple[str, ...]
    models: tuple[str, ...]
    paper: str
    summary: str
    options: tuple[str, ...] = ()


log = logging.getLogger("tokenprune")
_ATTRIBUTE_NAME = re.compile(r"[^\s\"'<>/=\x00-\x1f]+")
Factory = Callable[..., Pruner]
F = TypeVar("F", bound=Factory)
_factories: dict[str, tuple[PrunerInfo, Factory]] = {}


def named(
    name: str, *, kinds: tuple[str, ...], models: tuple[str, ...] = (), paper: str, summary: str
) -> Callable[[F], F]:
    """Register a function that builds a pruner under a name.

    A package registers its own by decorating a function with this and naming it as an entry point of the
    group ``tokenprune.pruners``.
    """

    def register(factory: F) -> F:
        info = PrunerInfo(name, kinds, models, paper, summary, options_of(factory))
        _factories[name] = (info, factory)
        return factory

    return register


@lru_cache(maxsize=1)
def _load_all() -> None:
    for module in _BUILTIN:
        import_module(f"tokenprune.pruners.{module}")
    for point in entry_points(group=GROUP):
        try:
            point.load()
        except (ImportError, AttributeError) as error:
            log.warning("the methods of entry point %r cannot be loaded: %s", point.value, error)


def list_pruners() -> list[PrunerInfo]:
    """Return what is known of every method, by name; loads no model."""
    _load_all()
    return [info for _, (info, _) in sorted(_factories.items())]


def _registered(name: str) -> tuple[PrunerInfo, Factory]:
    _load_all()
    if name not in _factories:
        raise UnknownNameError("method", name, list(_factories))
    return _factories[name]


def about(name: str) -> tuple[PrunerInfo, str]:
    """Return what is known of a method, and what its docstring says of its options; loads no model.

    Raises:
        UnknownNameError: no such method; the message lists those there are.
    """
    info, factory = _registered(name)
    return info, (inspect.getdoc(factory) or "").partition("\n\n")[2]  # the first line is for readers of code


def methods_for(kind: str) -> list[str]:
    """Return the names of the methods that prune a kind of document; loads no model."""
    return [info.name for info in list_pruners() if kind in info.kinds]


def without_query() -> list[str]:
    """Return the names of the methods that give the same output whatever the question; loads no model."""
    names: list[str] = []
    for info in list_pruners():
        try:
            needs = pruner(info.name).uses_query
        except ConfigError:  # a method with an option that has no default
            continue
        if not needs:
            names.append(info.name)
    return names


def pruner(name: str, *, kinds: Sequence[str] | None = None, **options: Any) -> Pruner:
    """Build a pruner by name.

    Args:
        name: one of `list_pruners`.
        kinds: document kinds it shall accept; None all that the method can.
        options: the method's own keyword arguments.

    Raises:
        UnknownNameError: no such method; the message lists those there are.
        ConfigError: an option the method does not have, or a wrong value.
    """
    info, factory = _registered(name)
    accepted = info.kinds if kinds is None else _kinds(info, kinds)
    converted: dict[str, Any] = {}

    @wraps(factory)
    def build(**values: Any) -> Pruner:
        converted.update(values)
        return factory(**values)

    try:
        built: Pruner = validate_call(build)(**options)
    except ValidationError as error:
        known = ", ".join(info.options) or "(none)"
        message = f"method {name!r}: {faults(error)}; its options: {known}{_elsewhere(name, error)}"
        raise ConfigError(message) from None
    _check(name, {option: converted[option] for option in options})
    return replace(built, name=name, kinds=accepted)


def _elsewhere(name: str, error: ValidationError) -> str:
    """Which methods have the options that this one lacks, as the end of a message."""
    said = ""
    for fault in error.errors():
        if fault["type"] != "unexpected_keyword_argument":
            continue
        option = str(fault["loc"][-1])
        having = [
            info.name for info in list_pruners() if any(o.split("=")[0] == option for o in info.options)
        ]
        if having:
            said += f"; {name!r} has no {option}, these methods have: {', '.join(having)}"
    return said


def _check(name: str, options: Mapping[str, Any]) -> None:
    """Refuse values of the options that methods share and that would quietly do something else."""
    for option, value in options.items():
        if option in ("max_words", "coarse_words", "read_tokens") and isinstance(value, int) and value < 1:
            raise ConfigError(f"method {name!r}: {option} must be 1 or more, not {value}")
        if option == "threshold" and isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"method {name!r}: threshold must be a finite number, not {value}")
        if option == "keep_attributes":
            wrong = [a for a in value if not _ATTRIBUTE_NAME.fullmatch(a)]
            if wrong:
                raise ConfigError(f"method {name!r}: keep_attributes holds no attribute name: {wrong[0]!r}")


def _kinds(info: PrunerInfo, kinds: Sequence[str]) -> tuple[str, ...]:
    if isinstance(kinds, str) or not isinstance(kinds, Sequence):
        raise ConfigError(f"method {info.name!r}: kinds must be a list of {', '.join(info.kinds)}")
    wrong = sorted(set(map(str, kinds)) - set(info.kinds))
    if wrong:
        raise ConfigError(
            f"method {info.name!r} cannot take {', '.join(wrong)}; it takes {', '.join(info.kinds)}"
        )
    return tuple(kinds)
