"""Server-sent events, as far as completions use them: the data of each event, and when the model speaks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_LINE_END = re.compile(rb"\r\n|\r|\n")
_BOM = b"\xef\xbb\xbf"
# What a delta may carry that the model wrote.
_WRITTEN = ("content", "reasoning_content", "reasoning", "refusal", "tool_calls", "function_call")


def has_token(choice: Mapping[str, Any]) -> bool:
    """Whether a choice of a chunk carries something that the model wrote, or the end of its answer.

    A first chunk that names only the role carries nothing: vLLM sends it together with the first token, other
    servers as soon as they have accepted the request. The end counts, too: the first token may be the one
    that ends an empty answer.
    """
    delta = choice.get("delta")
    wrote = isinstance(delta, Mapping) and any(delta.get(name) for name in _WRITTEN)
    return wrote or bool(choice.get("text") or choice.get("finish_reason"))


class EventDecoder:
    """Takes bytes that may be cut anywhere and gives the data of the events that are complete.

    After the event stream of the WHATWG HTML standard (section 9.2.6): comments and fields other than
    ``data`` are passed over, events without data are none.
    """

    def __init__(self) -> None:
        """Start at the beginning of a stream."""
        self._rest = b""
        self._data: list[bytes] = []
        self._after_cr = False
        self._first = True

    def feed(self, chunk: bytes) -> list[str]:
        """Return the data of the events that the chunk completes."""
        if self._after_cr and chunk:
            chunk = chunk.removeprefix(b"\n")
            self._after_cr = False
        if not chunk:
            return []
        self._after_cr = chunk.endswith(b"\r")
        *lines, self._rest = _LINE_END.split(self._rest + chunk)
        return [data for line in lines if (data := self._line(line)) is not None]

    def finish(self) -> str | None:
        """Return the data of a last event that no empty line ends: some servers close so after ``[DONE]``."""
        last, self._rest = self._rest, b""
        if last:
            self._line(last)
        return self._line(b"")

    def _line(self, line: bytes) -> str | None:
        if self._first:
            line, self._first = line.removeprefix(_BOM), False
        if not line:
            data, self._data = self._data, []
            return b"\n".join(data).decode("utf-8", "replace") if data else None
        field, _, value = line.partition(b":")
        if field == b"data":
            self._data.append(value.removeprefix(b" "))
        return None
