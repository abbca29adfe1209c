"""What a request may ask of us: the ``tokenprune`` object of its body and the ``x-tokenprune-*`` headers."""

import re
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    ValidationError,
    model_validator,
)

from tokenprune.budget import Budget
from tokenprune.errors import BudgetError
from tokenprune.validation import STRINGS_ARE_TEXTS, first_fault
from tokenprune.vision.tokens import parse_keep
from tokenprune_server.errors import RequestError
from tokenprune_server.protocols.base import Context
from tokenprune_server.types import Headers

PREFIX = b"x-tokenprune-"
_HEADER_FIELDS = {
    b"x-tokenprune-enabled": "enabled",
    b"x-tokenprune-pipeline": "pipeline",
    b"x-tokenprune-method": "method",
    b"x-tokenprune-max-tokens": "max_tokens",
    b"x-tokenprune-keep-ratio": "keep_ratio",
    b"x-tokenprune-query": "query",
    b"x-tokenprune-output": "output",
    b"x-tokenprune-vision": "vision.enabled",
    b"x-tokenprune-vision-method": "vision.method",
    b"x-tokenprune-vision-keep": "vision.keep",
}
_WANTED = {
    "enabled": "true or false",
    "max_tokens": "an integer",
    "keep_ratio": "a number",
    "vision.enabled": "true or false",
}
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")
_NUMBER = re.compile(r"[+-]?(?:[0-9]{1,18}(?:\.[0-9]{0,30})?|\.[0-9]{1,30})(?:[eE][+-]?[0-9]{1,3})?")
_BOOLEANS = {"true": True, "1": True, "on": True, "false": False, "0": False, "off": False}

MethodOptions = dict[str, StrictBool | StrictInt | StrictFloat | StrictStr | None]


def _keep(keep: Any) -> int | float | None:
    try:
        return parse_keep(keep)
    except BudgetError as error:
        raise ValueError(str(error)) from None


# Rows, a share, or None for the method's own, from all that `parse_keep` reads.
Keep = Annotated[StrictInt | StrictFloat | None, BeforeValidator(_keep)]


class VisionOptions(BaseModel):
    """What a request asks for its pictures; unset fields fall back to the settings.

    Attributes:
        enabled: prune the pictures or not.
        method: a vision method, as its name or as ``name:option=value,option=value``.
        options: further options of the method. Where a request gives options, in either place, they are all;
            those of the settings hold only for their own method.
        keep: tokens that stay of each picture: a whole number, a share, or None, for the method's own number
            where that is asked for (`model_fields_set`) and the settings' otherwise.
        video: pictures that follow each other in a message are the frames of one video.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    enabled: bool | None = None
    method: str | None = None
    options: MethodOptions | None = None
    keep: Keep = None
    video: bool | None = None


def _list(value: Any) -> Any:
    # JSON knows no tuples, so pydantic must not ask for one.
    if not isinstance(value, list | tuple):
        raise ValueError('Input should be a list of texts or of {"text", "kind", "title", "id"}')
    return value


class ContextItem(BaseModel):
    """One document given beside the messages."""

    model_config = ConfigDict(extra="forbid", strict=True)

    text: str
    kind: Literal["html", "text"] | None = None
    title: str | None = None
    id: str | None = None


class Options(BaseModel):
    """Options of one request; unset ones fall back to the settings.

    Attributes:
        enabled: prune this request or not.
        pipeline: a configured pipeline or a single pruner (``method`` is the same under another name).
        max_tokens: tokens that all documents together may keep.
        keep_ratio: the same as a share (0..1) of their tokens.
        output: what HTML becomes: ``same`` (stays HTML), ``text`` or ``markdown``.
        query: the question, in place of the last user question.
        contexts: documents given apart from the messages; pruned, then inserted before the last question.
        code_fences: also prune inside ``` fences.
        vision: for the pictures.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    enabled: bool | None = None
    pipeline: str | None = None
    method: str | None = None
    max_tokens: int | None = Field(None, ge=0)
    keep_ratio: float | None = Field(None, ge=0, le=1)
    output: Literal["same", "html", "text", "markdown"] | None = None
    query: str | None = None
    contexts: Annotated[tuple[ContextItem, ...], STRINGS_ARE_TEXTS, BeforeValidator(_list)] = Field(
        (), strict=False
    )
    code_fences: bool | None = None
    vision: VisionOptions | None = None

    @model_validator(mode="after")
    def _consistent(self) -> "Options":
        if self.max_tokens is not None and self.keep_ratio is not None:
            raise ValueError("give max_tokens or keep_ratio, not both")
        if self.pipeline is not None and self.method is not None:
            raise ValueError("give pipeline or method, not both")
        ids = [c.id for c in self.contexts if c.id is not None]
        if len(ids) != len(set(ids)):
            raise ValueError("the ids of contexts must differ")
        return self

    @property
    def budget(self) -> Budget | None:
        """The budget asked for, or None."""
        if self.max_tokens is None and self.keep_ratio is None:
            return None
        return Budget(max_tokens=self.max_tokens, keep_ratio=self.keep_ratio)

    @property
    def name(self) -> str | None:
        """The pipeline or pruner asked for, or None."""
        return self.pipeline if self.pipeline is not None else self.method

    def context_documents(self) -> tuple[Context, ...]:
        """The contexts as the protocol adapters take them."""
        return tuple(Context(c.text, c.kind, c.title, c.id) for c in self.contexts)


NO_OPTIONS = Options()
# Options that hold options of their own.
_INNER: dict[str, type[BaseModel]] = {"vision": VisionOptions, "contexts": ContextItem}


def has_option_headers(headers: Headers) -> bool:
    """Whether any header is ours."""
    return any(name.startswith(PREFIX) for name, _ in headers)


def without_option_headers(headers: Headers) -> Headers:
    """The headers for the upstream."""
    return [(name, value) for name, value in headers if not name.startswith(PREFIX)]


def read_options(body_options: Any, headers: Headers) -> Options:
    """Options from both places, the body winning.

    Raises:
        RequestError: a wrong type, value or unknown key; the message lists the keys there are at that place.
    """
    merged = _from_headers(headers)
    if body_options is not None:
        if not isinstance(body_options, dict):
            raise RequestError("tokenprune must be an object", param="tokenprune")
        for mine, other in (("pipeline", "method"), ("max_tokens", "keep_ratio")):
            if mine in body_options or other in body_options:
                merged.pop(mine, None)
                merged.pop(other, None)
        vision = body_options.get("vision")
        if isinstance(vision, dict) and "vision" in merged:
            body_options = {**body_options, "vision": merged["vision"] | vision}
        merged |= body_options
    if not merged:
        return NO_OPTIONS
    try:
        return Options.model_validate(merged)
    except ValidationError as error:
        place, message = first_fault(error)
        where = f"tokenprune.{place}" if place else "tokenprune"
        known = ", ".join(_INNER.get(place.partition(".")[0], Options).model_fields)
        raise RequestError(f"{where}: {message}; known options: {known}", param=where) from error


def _from_headers(headers: Headers) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for name, raw in headers:
        if not name.startswith(PREFIX):
            continue
        field = _HEADER_FIELDS.get(name)
        shown = name.decode("latin-1")
        if field is None:
            known = ", ".join(known.decode() for known in _HEADER_FIELDS)
            raise RequestError(f"unknown header {shown}; known headers: {known}", param=shown)
        value = _parse(field, raw.decode("utf-8", "replace").strip(), shown)
        group, _, key = field.rpartition(".")
        (options.setdefault(group, {}) if group else options)[key] = value
    return options


def _plain(form: re.Pattern[str], value: str) -> str:
    # Python reads more than people mean: "1_0", "nan", digits of other scripts.
    if form.fullmatch(value) is None:
        raise ValueError(value)
    return value


def _parse(field: str, value: str, header: str) -> Any:
    try:
        if field in ("enabled", "vision.enabled"):
            return _BOOLEANS[value.lower()]
        if field == "vision.keep":
            return _keep(value)
        if field == "max_tokens":
            return int(_plain(_INTEGER, value))
        if field == "keep_ratio":
            return float(_plain(_NUMBER, value))
    except (KeyError, ValueError) as error:
        what = f"{value!r} is not {_WANTED[field]}" if field in _WANTED else str(error)
        raise RequestError(f"header {header}: {what}", param=header) from error
    return value
