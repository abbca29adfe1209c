"""Questions and passages as token ids: tokenizers and the special tokens around their parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tokenprune.arrays import IntArray
from tokenprune.tokens import sanitize

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer


class Tokens(NamedTuple):
    """A text as tokens: int64 columns of length t, offsets in characters."""

    ids: IntArray
    start: IntArray
    end: IntArray


@dataclass(frozen=True)
class Frame:
    """What stands around question and passage: ``before query between title passage after``.

    Attributes:
        before: token ids.
        between: token ids.
        after: token ids.
        types: segment numbers of what stands up to ``between`` and of the rest.
    """

    before: tuple[int, ...]
    between: tuple[int, ...]
    after: tuple[int, ...]
    types: tuple[int, int] = (0, 0)

    def __len__(self) -> int:
        return len(self.before) + len(self.between) + len(self.after)


@dataclass(frozen=True)
class TextReader:
    """Turns texts into token ids; safe to use from threads.

    A special token that is written out in a text (``[SEP]``) is not one: it is read as the text it is, or as
    an unknown token where the vocabulary has it as one piece. So a passage cannot pretend to be two.

    Args:
        tokenizer: a fast tokenizer.
        pad: id of the padding token.
        unknown: id of the unknown token, None where there is none.
    """

    tokenizer: Tokenizer
    pad: int
    unknown: int | None = None

    def __post_init__(self) -> None:
        # State of the tokenizer is set here, once, and never again: threads share it.
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        self.tokenizer.encode_special_tokens = True

    def __setstate__(self, state: dict[str, Any]) -> None:
        # A pickled tokenizer forgets that special tokens in a text are text.
        self.__dict__.update(state)
        self.__post_init__()

    def read(self, texts: Sequence[str]) -> list[Tokens]:
        """Tokenise texts without special tokens around them."""
        safe = [sanitize(text) for text in texts]
        read = [_columns(e) for e in self.tokenizer.encode_batch(safe, add_special_tokens=False)]
        if self.unknown is not None:
            added = self.tokenizer.get_added_tokens_decoder()
            special = [i for i, token in added.items() if token.special]
            for tokens in read:
                tokens.ids[np.isin(tokens.ids, special)] = self.unknown
        return read


def pair_frame(tokenizer: Tokenizer, cls: int | None = None, sep: int | None = None) -> Frame:
    """Read off a tokenizer how it frames a pair of texts.

    Args:
        tokenizer: with the post-processor of its model.
        cls: id to begin with where the tokenizer adds nothing before the first text.
        sep: id to put behind each text where it adds nothing between the two.
    """
    word = _anything(tokenizer)
    framed: Encoding = tokenizer.encode(word, word, add_special_tokens=True)
    side = framed.sequence_ids
    ids = framed.ids
    here = [n for n, s in enumerate(side) if s == 0]
    there = [n for n, s in enumerate(side) if s == 1]
    before, between = ids[: here[0]], ids[here[-1] + 1 : there[0]]
    after = ids[there[-1] + 1 :]
    types = (framed.type_ids[here[0]], framed.type_ids[there[0]])
    if (cls is not None and not before) or (sep is not None and not between):
        ends = () if sep is None else (sep,)
        return Frame(() if cls is None else (cls,), ends, ends, types)
    return Frame(tuple(before), tuple(between), tuple(after), types)


def _anything(tokenizer: Tokenizer) -> str:
    """Some text that has at least one token."""
    for text in ("a", "the", *sorted(tokenizer.get_vocab(with_added_tokens=False))[:64]):
        if len(tokenizer.encode(text, add_special_tokens=False)):
            return text
    raise ValueError("the tokenizer makes no tokens of any text")


def _columns(encoding: Encoding) -> Tokens:
    offsets = np.asarray(encoding.offsets, dtype=np.int64).reshape(-1, 2)
    return Tokens(np.asarray(encoding.ids, dtype=np.int64), offsets[:, 0].copy(), offsets[:, 1].copy())
