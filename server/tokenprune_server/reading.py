"""The body of a request as we can work on it, with the options it carries."""

import json
from dataclasses import dataclass
from typing import Any

from tokenprune_server.body import decoded, header
from tokenprune_server.errors import RequestError
from tokenprune_server.json_body import TOO_DEEP, UnfitJsonError, parse
from tokenprune_server.options import NO_OPTIONS, Options, has_option_headers, read_options
from tokenprune_server.types import Headers


@dataclass(frozen=True, slots=True)
class Read:
    """A parsed body without our options, the options, whether the body held any, and its plain size."""

    body: dict[str, Any]
    options: Options
    has_options: bool
    size: int


def read_request(headers: Headers, raw: bytes, max_bytes: int) -> Read | None:
    """Parse a body and take our options out of it.

    Args:
        headers: of the request.
        raw: its body as it came.
        max_bytes: that it may have when it is unpacked.

    Returns:
        The parsed request, or None when it is not ours to read.

    Raises:
        RequestError: it is no JSON object, or its options cannot be.
    """
    encoding = header(headers, b"content-encoding")
    plain = decoded(raw, encoding, max_bytes) if encoding else raw
    if plain is None or header(headers, b"content-type").startswith(b"multipart/"):
        return None
    try:
        body = parse(plain)
    except UnfitJsonError as error:
        _refuse_unfit(headers, plain, error)
        return None
    except RecursionError as error:
        raise RequestError(TOO_DEEP) from error
    except ValueError as error:
        raise RequestError(_no_json(headers, plain, error)) from error
    if not isinstance(body, dict):
        raise RequestError("the request body must be a JSON object")
    has_options = "tokenprune" in body
    options = NO_OPTIONS
    if has_options or has_option_headers(headers):
        options = read_options(body.pop("tokenprune", None), headers)
    return Read(body, options, has_options, len(plain))


def _refuse_unfit(headers: Headers, plain: bytes, error: UnfitJsonError) -> None:
    """Leave a body alone that we could not write again as it is; refuse it when it asks for pruning.

    It may hold options that must not go upstream, or that would be ignored in silence.
    """
    try:
        body = json.loads(plain, parse_int=str)
    except (ValueError, RecursionError) as broken:
        raise RequestError(f"the request body is not valid JSON: {broken}") from broken
    if has_option_headers(headers) or (isinstance(body, dict) and "tokenprune" in body):
        raise RequestError(f"the request body cannot be rewritten: {error}") from error


def _no_json(headers: Headers, plain: bytes, error: ValueError) -> str:
    if plain.strip():
        return f"the request body is not valid JSON: {error}"
    if header(headers, b"upgrade"):
        # HTTP servers take what follows such a head for the other protocol.
        return "the request body is lost where a request asks to change the protocol: send no upgrade header"
    return "the request body is empty; it must be a JSON object"
