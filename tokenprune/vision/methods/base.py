"""Names -> vision methods, and what all of them have in common: the budget and the checks of the input."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import ValidationError, validate_call

from tokenprune.errors import BudgetError, ConfigError, UnknownNameError, VisionError
from tokenprune.validation import faults, options_of
from tokenprune.vision.tokens import Reduced, VisualTokens, parse_keep, rows_of

if TYPE_CHECKING:
    import torch

# Modules of the methods that ship; each registers what it defines when it is imported.
_BUILTIN = ("baselines", "divprune", "evs", "fopru", "holitom", "prumerge", "visionzip")
_INSIDE = ("atp_llava", "fastv", "holitom_merge")

Where = Literal["before", "inside"]
Need = Literal["received", "cls", "keys"]
Decide = Callable[[VisualTokens, int | None], Reduced]
F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class VisionMethodInfo:
    """What a method is.

    Attributes:
        name: what it is asked for by.
        paper: where it comes from.
        summary: one line.
        where: ``before`` the language model, or ``inside`` it, between its layers.
        options: keyword arguments of the method, as ``name=default`` or ``name (required)``.
        about: what its docstring says behind the first line.
    """

    name: str
    paper: str
    summary: str
    where: Where = "before"
    options: tuple[str, ...] = ()
    about: str = ""

    @property
    def line(self) -> str:
        """What lists say of it."""
        inside = "" if self.where == "before" else "; inside the language model"
        return f"{self.summary} [{self.paper}{inside}]"

    @property
    def described(self) -> str:
        """All that is known of it, for a terminal."""
        options = "".join(f"\n  {option}" for option in self.options or ("(none)",))
        about = f"\n\n{self.about}" if self.about else ""
        return (
            f"{self.name}: {self.summary}\nfrom: {self.paper}\nworks: {self.where} the language model{about}"
            f"\n\noptions, as keyword arguments or behind the name, as in fopru:strategy=row:{options}"
        )


@dataclass(frozen=True)
class VisionMethod:
    """A method that works before the language model; make one with `vision_method`.

    Attributes:
        decide: tokens and rows -> what is left; rows are None where ``own_count`` allows no budget.
        needs: attributes of the tokens it reads besides their features.
        own_count: whether it knows without a budget how many rows to leave.
        exact: whether a budget is met to the row; see the method's own text where it is not.
        name: shown in receipts.
    """

    decide: Decide
    needs: tuple[Need, ...] = ()
    own_count: bool = False
    exact: bool = True
    name: str = "custom"

    def reduce(self, tokens: VisualTokens, keep: int | float | str | None = None) -> Reduced:
        """Leave fewer tokens of one image or video; the same input gives the same output.

        Args:
            tokens: as the encoder gives them.
            keep: rows (an int), or a share of the tokens (a float), or either as text, see `parse_keep`. All
                of them leaves everything as it is. None: as many as the method finds right, for those that
                can tell.

        Raises:
            BudgetError: no row would be left, or a budget is needed and none was given.
            VisionError: the tokens lack what the method needs, or hold numbers that are not finite.
        """
        keep = parse_keep(keep)
        if keep is None and not self.own_count:
            raise BudgetError(f"vision method {self.name!r} needs a budget: give keep, rows or a share")
        rows = None if keep is None else rows_of(keep, len(tokens))
        _check(tokens, self.needs, self.name)
        if rows == len(tokens):
            return everything(tokens)
        reduced = self.decide(tokens, rows)
        if self.exact and rows is not None and len(reduced) != rows:
            raise VisionError(f"vision method {self.name!r} left {len(reduced)} rows for a budget of {rows}")
        return reduced


def reduce_by(method: VisionMethod | None, tokens: VisualTokens, keep: int | float | None) -> Reduced:
    """Let a method leave fewer tokens, or, where it is None, leave all; raises what it raises.

    Raises:
        VisionError: with a method or without one, the tokens hold numbers that are not finite.
    """
    if method is not None:
        return method.reduce(tokens, keep)
    _check(tokens, (), "none")
    return everything(tokens)


def more_than_asked(name: str, keep: int | float | None, before: int, after: int) -> str:
    """Say in words why more of an image or a video stays than a budget asks for; "" where it does not.

    Args:
        name: the method.
        keep: its budget; None: its own number.
        before: tokens there were.
        after: tokens that stay.

    Raises:
        UnknownNameError: no such method.
    """
    asked = before if keep is None else rows_of(keep, before)
    if after <= asked:
        return ""
    about = vision_method_info(name).summary
    return f"{after} of {before} tokens stay, and keep asks for {asked}; what {name!r} keeps: {about}"


def everything(tokens: VisualTokens) -> Reduced:
    """Leave all tokens as they are."""
    import torch

    place = torch.arange(len(tokens), device=tokens.features.device)
    return Reduced(tokens.features, place, place.clone())


def _check(tokens: VisualTokens, needs: tuple[Need, ...], name: str) -> None:
    for need in needs:
        if getattr(tokens, need) is None:
            raise VisionError(
                f"vision method {name!r} needs {need!r} of the vision encoder, and these tokens have none"
            )
    for attribute in ("features", *needs):
        value: torch.Tensor = getattr(tokens, attribute)
        if not bool(value.isfinite().all()):
            raise VisionError(f"{attribute} of the visual tokens holds NaN or infinity")


_factories: dict[str, tuple[VisionMethodInfo, Callable[..., Any]]] = {}


def named(name: str, *, paper: str, summary: str, where: Where = "before") -> Callable[[F], F]:
    """Register a function that builds a method under a name.

    What is built is a `VisionMethod` where ``where`` is ``before``; methods inside the language model are
    what the engine takes (see `inner_method`).
    """

    def register(factory: F) -> F:
        about = (inspect.getdoc(factory) or "").partition("\n\n")[2]
        _factories[name] = (
            VisionMethodInfo(name, paper, summary, where, options_of(factory), about),
            factory,
        )
        return factory

    return register


@lru_cache(maxsize=1)
def _load_all() -> None:
    for module in (*_BUILTIN, *_INSIDE):
        import_module(f"tokenprune.vision.methods.{module}")


def list_vision_methods() -> list[VisionMethodInfo]:
    """Return what is known of every method, by name; loads no model and no torch."""
    _load_all()
    return [info for _, (info, _) in sorted(_factories.items())]


def method_spec(text: str) -> tuple[str, dict[str, str]]:
    """Read a method as people name it, ``name`` or ``name:option=value,option=value``: the one place for it.

    Returns:
        The name and the options, neither of them checked.

    Raises:
        ConfigError: options not written so, or one that is given twice.
    """
    name, _, rest = text.partition(":")
    options: dict[str, str] = {}
    for pair in filter(None, rest.split(",")):
        key, equals, value = (part.strip() for part in pair.partition("="))
        if not equals or not key:
            raise ConfigError(f"{text!r}: options are written as name:option=value,option=value")
        if key in options:
            raise ConfigError(f"{text!r}: option {key!r} is given twice")
        options[key] = value
    return name.strip(), options


def vision_method_info(name: str) -> VisionMethodInfo:
    """Return what is known of one method.

    Raises:
        UnknownNameError: no such method; the message lists those there are.
    """
    _load_all()
    known = name if name in _factories else name.replace("_", "-")  # as they are called in Python
    if known not in _factories:
        raise UnknownNameError("vision method", name, list(_factories))
    return _factories[known][0]


def vision_method(name: str, **options: Any) -> VisionMethod:
    """Build a method that works before the language model.

    Args:
        name: one of `list_vision_methods`; "_" may stand for "-". Options may stand behind it, see
            `method_spec`.
        options: the method's own keyword arguments; ``keep`` as `parse_keep` reads it.

    Raises:
        UnknownNameError: no such method; the message lists those there are.
        ConfigError: an option the method does not have or that is given twice, a wrong value, or a method
            that works inside.
        BudgetError: an option ``keep`` that means nothing.
    """
    info, made = _build(name, "before", options)
    built: VisionMethod = replace(made, name=info.name)
    return built


def inner_method(name: str, **options: Any) -> Any:
    """Build a method that works inside the language model; raises what `vision_method` raises."""
    return _build(name, "inside", options)[1]


def _build(text: str, where: Where, options: dict[str, Any]) -> tuple[VisionMethodInfo, Any]:
    name, own = method_spec(text)
    info = vision_method_info(name)
    if twice := own.keys() & options.keys():
        raise ConfigError(f"option {min(twice)!r} is given twice: behind the name in {text!r}, and apart")
    options = own | options
    if info.where != where:
        raise ConfigError(
            f"vision method {info.name!r} works {info.where} the language model, not {where} it"
        )
    if "keep" in options:
        keep = parse_keep(options["keep"])
        options = {**options, "keep": keep}
        if keep is None:  # the method's own
            del options["keep"]
    try:
        return info, validate_call(_factories[info.name][1])(**options)
    except ValidationError as error:
        known = ", ".join(info.options) or "(none)"
        raise ConfigError(f"vision method {info.name!r}: {faults(error)}; its options: {known}") from None
