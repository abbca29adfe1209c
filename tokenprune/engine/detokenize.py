"""Token ids to text piece by piece: never half a character, never the beginning of a stop string."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

_REPLACEMENT = "\ufffd"


class Decoder(Protocol):
    """The part of a tokenizer that turns ids into text."""

    all_special_ids: list[int]

    def decode(
        self, token_ids: list[int], *, skip_special_tokens: bool, clean_up_tokenization_spaces: bool
    ) -> str:
        """Return the text of ``token_ids``."""


class IncrementalDetokenizer:
    """Decodes a growing sequence; the pieces put together equal the decoding of the whole.

    Only a short window is decoded at each step. The window begins at the last place where the text was
    complete, one piece further back, because many tokenizers decode a token differently at the very
    beginning.
    """

    def __init__(self, tokenizer: Decoder) -> None:
        """Start an empty sequence."""
        self._tokenizer = tokenizer
        self._special = frozenset(tokenizer.all_special_ids)
        self._ids: list[int] = []
        self._read = 0
        self._shown = ""

    def push(self, token_id: int) -> str:
        """Add a token and return the text that became complete, perhaps empty."""
        if token_id in self._special:
            return ""
        self._ids.append(token_id)
        text = self._decode(self._ids)
        # A character whose bytes are spread over tokens shows as a replacement character until its last byte
        # is there.
        if text.endswith(_REPLACEMENT):
            return ""
        return self._take(text)

    def flush(self) -> str:
        """Return what is left, incomplete characters as replacement characters."""
        return self._take(self._decode(self._ids))

    def _take(self, text: str) -> str:
        piece = text[len(self._shown) :]
        if piece:
            self._ids = self._ids[self._read :]
            self._read = len(self._ids)
            self._shown = self._decode(self._ids)
        return piece

    def _decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


class StopMatcher:
    """Holds back text that may be the beginning of a stop string."""

    def __init__(self, stop: Sequence[str]) -> None:
        """Watch for any of the non-empty strings ``stop``."""
        self._stop = tuple(stop)
        self._held = ""

    def push(self, text: str) -> tuple[str, str | None]:
        """Add text; return what can be shown and the stop string that was found, which ends the text."""
        if not self._stop:
            return text, None
        text = self._held + text
        found = [(at, -len(stop), stop) for stop in self._stop if (at := text.find(stop)) >= 0]
        if found:
            at, _, stop = min(found)
            self._held = ""
            return text[:at], stop
        keep = max(_overlap(text, stop) for stop in self._stop)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep], None

    def flush(self) -> str:
        """Return what was held back, when no stop string can come any more."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of ``text`` that is a proper beginning of ``stop``."""
    for size in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:size]):
            return size
    return 0
