"""A context and a question as one prompt of a causal LM, and where their characters are among its tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tokenprune.arrays import IntArray

_HEAD, _ASK = "Context:\n", "\n\nQuestion: "


@dataclass(frozen=True)
class QuestionPrompt:
    """A prompt up to where the answer begins.

    Attributes:
        text: the whole prompt.
        ids: its tokens.
        spans: int64 [n, 2], characters of each token, ascending.
        context: where the context begins.
        window: tokens of the question, ascending.
    """

    text: str
    ids: list[int]
    spans: IntArray
    context: int
    window: tuple[int, ...]

    @classmethod
    def write(cls, tokenizer: Any, context: str, question: str) -> QuestionPrompt:
        """Write a user's message with the chat template of ``tokenizer``; without one, as plain text."""
        content = f"{_HEAD}{context}{_ASK}{question}"
        if tokenizer.chat_template is None:
            text = content + "\n"
        else:
            text = tokenizer.apply_chat_template(
                [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
            )
        # `verbose` would warn of lengths that are read in windows.
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        spans = np.asarray(encoded["offset_mapping"], dtype=np.int64).reshape(-1, 2)
        at = text.index(_HEAD) + len(_HEAD)
        asked = at + len(context) + len(_ASK)
        window = _overlapping(spans, np.asarray([asked, asked + len(question)]))[0]
        return cls(text, list(encoded["input_ids"]), spans, at, tuple(range(*window)))

    def tokens_of(self, start: int, end: int) -> range:
        """Return the tokens that share a character with ``[start, end)`` of the context."""
        edges = np.asarray([start, end]) + self.context
        return range(*_overlapping(self.spans, edges)[0])

    def tokens_between(self, edges: IntArray) -> list[tuple[int, int]]:
        """Return tokens ``[a, b)`` of each ``[edges[i], edges[i + 1])`` of the context."""
        return _overlapping(self.spans, self.context + edges)


def _overlapping(spans: IntArray, edges: IntArray) -> list[tuple[int, int]]:
    first = np.searchsorted(spans[:, 1], edges[:-1], side="right")
    last = np.searchsorted(spans[:, 0], edges[1:], side="left")
    return list(zip(first.tolist(), last.tolist(), strict=True))
