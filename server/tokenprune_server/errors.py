"""Errors in the shape that OpenAI clients read: ``{"error": {"message", "type", "param", "code"}}``."""

import json

from tokenprune.errors import TokenPruneError
from tokenprune_server.types import Headers, Send

_TYPES = {
    400: "BadRequestError",
    401: "AuthenticationError",
    404: "NotFoundError",
    405: "MethodNotAllowedError",
    500: "InternalServerError",
    502: "BadGatewayError",
    503: "ServiceUnavailableError",
    504: "GatewayTimeoutError",
}


class RequestError(TokenPruneError):
    """A request that is answered by us with an error instead of being forwarded."""

    def __init__(self, message: str, *, status: int = 400, param: str | None = None) -> None:
        """Keep the HTTP ``status`` and the name of the offending parameter beside the message."""
        super().__init__(message)
        self.message, self.status, self.param = message, status, param


def error_dict(message: str, status: int, param: str | None = None) -> dict[str, dict[str, object]]:
    """The error object; ``code`` is the HTTP status, as vLLM does it."""
    kind = _TYPES.get(status, "BadRequestError" if status < 500 else "InternalServerError")
    return {"error": {"message": message, "type": kind, "param": param, "code": status}}


def error_body(message: str, status: int, param: str | None = None) -> bytes:
    """The error object as JSON bytes."""
    return json.dumps(error_dict(message, status, param)).encode()


async def send_error(
    send: Send, status: int, message: str, *, param: str | None = None, headers: Headers | None = None
) -> None:
    """Answer the request with an error; nothing must have been sent before."""
    body = error_body(message, status, param)
    all_headers: Headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        *(headers or []),
    ]
    await send({"type": "http.response.start", "status": status, "headers": all_headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
