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
        """Write a context and a question as a user's message; see `user_message`."""
        content = f"{_HEAD}{context}{_ASK}{question}"
        text, encoded = user_message(tokenizer, content, return_offsets_mapping=True)
        spans = np.asarray(encoded["offset_mapping"], dtype=np.int64).reshape(-1, 2)
        at = text.index(_HEAD) + len(_HEAD)
        asked = at + len(context) + len(_ASK)
        window = _overlapping(spans, np.asarray([asked, asked + len(question)]))[0]
        return cls(text, encoded["input_ids"], spans, at, tuple(range(*window)))

    def tokens_of(self, start: int, end: int) -> range:
        """Return the tokens that share a character with ``[start, end)`` of the context."""
        edges = np.asarray([start, end]) + self.context
        return range(*_overlapping(self.spans, edges)[0])

    def tokens_between(self, edges: IntArray) -> list[tuple[int, int]]:
        """Return tokens ``[a, b)`` of each ``[edges[i], edges[i + 1])`` of the context."""
        return _overlapping(self.spans, self.context + edges)


def user_message(tokenizer: Any, content: str, **asked: bool) -> tuple[str, dict[str, list[Any]]]:
    """Write a user's message up to where the answer begins: in the chat template, or as plain text.

    A template writes special tokens itself. Before plain text stands what the tokenizer puts there, mostly a
    BOS without which a base model reads badly; what it would put behind it, an EOS say, is left out.

    Args:
        tokenizer: of transformers.
        content: of the message.
        asked: what else the tokenizer shall return of each token, as ``return_offsets_mapping=True``.

    Returns:
        The text, and what the tokenizer returns: ``input_ids`` and what was asked for, [n] each.
    """
    plain = tokenizer.chat_template is None
    if plain:
        text = content + "\n"
    else:
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
    # `verbose` would warn of lengths that are read in windows.
    encoded = tokenizer(
        text, add_special_tokens=plain, return_special_tokens_mask=True, verbose=False, **asked
    )
    special = encoded["special_tokens_mask"]
    size = len(special)
    while plain and size and special[size - 1]:
        size -= 1
    return text, {name: list(column[:size]) for name, column in encoded.items()}


def _overlapping(spans: IntArray, edges: IntArray) -> list[tuple[int, int]]:
    first = np.searchsorted(spans[:, 1], edges[:-1], side="right")
    last = np.searchsorted(spans[:, 0], edges[1:], side="left")
    return list(zip(first.tolist(), last.tolist(), strict=True))
