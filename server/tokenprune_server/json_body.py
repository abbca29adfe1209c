"""Request bodies as JSON: parsed so that writing them again loses nothing."""

import json
import math
from typing import Any

from tokenprune_server.errors import RequestError
from tokenprune_server.protocols.base import Body

TOO_DEEP = "the JSON of the request body is nested too deeply"


class UnfitJsonError(ValueError):
    """JSON that would not survive being parsed and written again."""


def parse(raw: bytes) -> Any:
    """Parse a request body.

    Raises:
        UnfitJsonError: it holds duplicate keys, or numbers that Python cannot hold and write again.
        ValueError: it is not JSON.
        RecursionError: it is nested too deeply.
    """
    try:
        return json.loads(raw, object_pairs_hook=_object, parse_float=_number, parse_constant=_constant)
    except (json.JSONDecodeError, UnicodeDecodeError, UnfitJsonError):
        raise
    except ValueError as error:  # Python's limit on the digits of an integer
        raise UnfitJsonError("it holds an integer with thousands of digits") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise UnfitJsonError("it holds an object with duplicate keys")
    return result


def _number(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise UnfitJsonError(f"the number {text[:40]} is out of range")
    return number


def _constant(text: str) -> float:
    raise UnfitJsonError(f"{text} is not a JSON number")


def serialise(body: Body) -> bytes:
    """JSON bytes; escapes are used only where UTF-8 cannot hold what the request escaped.

    Raises:
        RequestError: it is nested so deeply that it could only just be read.
    """
    try:
        return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        return json.dumps(body, separators=(",", ":")).encode()
    except RecursionError as error:
        raise RequestError(TOO_DEEP) from error
