"""What our pydantic models have in common: texts that may be plain strings, and errors that fit one line."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pydantic import BeforeValidator, ValidationError

_NAME = re.compile(r"[\w-]+")


def _strings_are_texts(value: Any) -> Any:
    if not isinstance(value, list):
        return value
    return [{"text": item} if isinstance(item, str) else item for item in value]


# For a field that is a list of models with a ``text``: a string stands for one that has nothing else.
STRINGS_ARE_TEXTS = BeforeValidator(_strings_are_texts)


def fault(error: Mapping[str, Any]) -> tuple[str, str]:
    """Return where in the input one of pydantic's errors is (steps joined by dots), and what it says."""
    return place(error["loc"]), str(error["msg"]).removeprefix("Value error, ")


def first_fault(error: ValidationError) -> tuple[str, str]:
    """Return where the first fault is, and what it says."""
    return fault(error.errors()[0])


def faults(error: ValidationError, *before: str) -> str:
    """Return all faults in one line; ``before`` are steps that lead to the input."""
    return "; ".join(line(place([*before, *e["loc"]]), fault(e)[1]) for e in error.errors())


def options_of(factory: Callable[..., Any]) -> tuple[str, ...]:
    """Return what a function takes, as people read it: ``name=default`` or ``name (required)``."""
    parameters = inspect.signature(factory).parameters.values()
    return tuple(
        f"{p.name} (required)" if p.default is p.empty else f"{p.name}={p.default!r}" for p in parameters
    )


def line(where: str, message: str) -> str:
    """Return both as one text; ``where`` is empty when the input as a whole is wrong."""
    return f"{where}: {message}" if where else message


def place(steps: Iterable[str | int]) -> str:
    """Return keys and indices joined by dots."""
    # a name that is none (with a line end, say) is shown as Python writes it
    return ".".join(s if _NAME.fullmatch(s) else repr(s) for s in map(str, steps))
