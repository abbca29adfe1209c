"""The tokens of long texts, of which each pre-token is encoded once.

A byte-level BPE tokenizer cuts a text into pre-tokens by a regular expression and encodes each by itself
(Radford et al. 2019, section 2.2). A text consists of few different ones, nearly all of them ASCII. For these
the expression is read by Python's ``re``, many times as fast as the tokenizer reads the text, and what the
tokenizer makes of each is looked up. Whatever is not plain stays with the tokenizer: other kinds of
tokenizers, and words with a character beyond ASCII, each of which is handed over whole.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator, Sequence
from itertools import accumulate, chain, repeat
from typing import TYPE_CHECKING, Any

import numpy as np

from tokenprune.arrays import IntArray
from tokenprune.points import IS_SPACE, code_points

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# The alternatives of the expressions that are understood. All of them read white space only as their first
# character, or alone, or line ends last: so what ends where a space begins is a pre-token of its own.
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_KNOWN = frozenset((
    # GPT-2; also what `ByteLevel` reads by itself
    "'s", "'t", "'re", "'ve", "'m", "'ll", "'d",
    r" ?\p{L}+", r" ?\p{N}+", r" ?[^\s\p{L}\p{N}]+", r"\s+(?!\S)", r"\s+",
    # Llama 3, Qwen 2
    _CONTRACTIONS, r"[^\r\n\p{L}\p{N}]?\p{L}+", r"\p{N}", r"\p{N}+", r"\p{N}{1,3}",
    r" ?[^\s\p{L}\p{N}]+[\r\n]*", r"\s*[\r\n]+", r"\s*[\r\n]",
    # GPT-4o and its kin
    *(
        rf"[^\r\n\p{{L}}\p{{N}}]?{letters}{contractions}"
        for letters in (f"{_UPPER}*{_LOWER}+", f"{_UPPER}+{_LOWER}*")
        for contractions in ("", f"{_CONTRACTIONS}?")
    ),
    r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
))  # fmt: skip
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_APART = re.compile(r"\|(?![^(]*\))")  # a bar that stands in no group

_WHITE = IS_SPACE.copy()  # the white space of these expressions
_WHITE[0x1C:0x20] = False  # which `str.split` takes for some
_LINE_ENDS = [10, 13]
_PIECES = 1 << 17  # that are remembered
_CHARACTERS = 1 << 22  # of all of them
_SHORT = 64  # characters; of longer ones the tokenizer, which lets other threads run, is asked
_TURN = 1 << 16  # characters that are read at once


def _in_ascii(alternative: str) -> str:
    """An alternative as Python reads it in ASCII."""
    for signs, ascii_signs in ((_UPPER, "[A-Z]"), (_LOWER, "[a-z]")):
        alternative = alternative.replace(signs, ascii_signs)
    for signs, ascii_signs in ((r"\p{L}", "A-Za-z"), (r"\p{N}", "0-9")):
        # inside of a class, and as one
        alternative = re.sub(rf"(\[[^\]]*){re.escape(signs)}", rf"\g<1>{ascii_signs}", alternative)
        alternative = alternative.replace(signs, f"[{ascii_signs}]")
    return alternative


def _expression(steps: Sequence[dict[str, Any]]) -> str | None:
    """The expression that does what a pre-tokenizer does, in ASCII; None for one that is not understood."""
    if not steps or steps[-1]["type"] != "ByteLevel" or steps[-1]["add_prefix_space"]:
        return None
    match steps[:-1], steps[-1]["use_regex"]:
        case [], True:
            alternatives = _APART.split(_GPT2)
        case [{"type": "Digits", "individual_digits": alone}], True:
            # Digits are cut out first, without the space before them, which then ends a text.
            digits = "[0-9]" if alone else "[0-9]+"
            written = _GPT2.replace(r" ?\p{N}+", digits).replace(r"(?!\S)", r"(?![^\s0-9])")
            return "|".join(map(_in_ascii, _APART.split(written)))
        case [{"type": "Split", "pattern": {"Regex": read}, "behavior": "Isolated", "invert": False}], False:
            alternatives = _APART.split(read)
        case _:
            return None
    return "|".join(map(_in_ascii, alternatives)) if _KNOWN.issuperset(alternatives) else None


def _reads_all(expression: str) -> bool:
    """Whether nothing of ASCII is passed over."""
    return all(re.match(expression, chr(c), re.ASCII) for c in range(1, 128))


def _steps(component: Any, of: str) -> list[dict[str, Any]]:
    """A pre-tokenizer or normalizer as its steps."""
    if component is None:
        return []
    read = json.loads(component.__getstate__())
    return list(read[of]) if read["type"] == "Sequence" else [read]


class _Table:
    """What the tokenizer made of pieces: rows of columns that only grow."""

    def __init__(self) -> None:
        self.rows: dict[str, int] = {}
        self.characters = 0
        self.length = np.zeros(1024, dtype=np.int64)
        self.count = np.zeros(1024, dtype=np.int64)
        self.first = np.zeros(1025, dtype=np.int64)  # place of its first token in ``at``
        self.at = np.zeros(1024, dtype=np.int64)  # where tokens start in their piece

    def add(self, pieces: Sequence[str], starts: Sequence[Sequence[int]]) -> None:
        """Add new pieces and where their tokens start."""
        n, tokens = len(self.rows), int(self.first[len(self.rows)])
        count = np.fromiter(map(len, starts), dtype=np.int64, count=len(pieces))
        length = np.fromiter(map(len, pieces), dtype=np.int64, count=len(pieces))
        at = np.fromiter(chain.from_iterable(starts), dtype=np.int64, count=int(count.sum()))
        # Columns are replaced, not written to where others read: rows that are known stay as they are.
        self.length, self.count = _extended(self.length, n, length), _extended(self.count, n, count)
        self.first = _extended(self.first, n + 1, tokens + np.cumsum(count))
        self.at = _extended(self.at, tokens, at)
        self.characters += int(length.sum())
        self.rows.update(zip(pieces, range(n, n + len(pieces)), strict=True))


def _extended(column: IntArray, n: int, values: IntArray) -> IntArray:
    """A column whose first ``n`` rows count, with more behind them."""
    if n + len(values) > len(column):
        column = np.append(column, np.zeros(n + len(values), dtype=np.int64))
    column[n : n + len(values)] = values
    return column


class PreTokens:
    """Tokens of texts by their pre-tokens; safe to use from threads.

    Args:
        tokenizer: neither truncates nor pads, and has no post-processor.
        expression: reads the pre-tokens of ASCII.
    """

    def __init__(self, tokenizer: Tokenizer, expression: str) -> None:
        self._tokenizer = tokenizer
        self._read = re.compile(expression, re.ASCII).findall
        self._ends = _WHITE.copy()  # white space in front of which a pre-token ends that ends in none
        if r"[\r\n" in expression:
            self._ends[_LINE_ENDS] = False
        self._added: dict[str, list[str]] = {}
        for token in tokenizer.get_added_tokens_decoder().values():
            self._added.setdefault(token.content[:2], []).append(token.content)
        self._lock = threading.Lock()
        self._table = _Table()

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> PreTokens | None:
        """Those of a tokenizer; None where they cannot be read here."""
        normal = _steps(tokenizer.normalizer, "normalizers")
        added = tokenizer.get_added_tokens_decoder().values()
        if any(step["type"] != "NFC" for step in normal) or (
            normal and any(token.normalized and not token.content.isascii() for token in added)
        ):
            return None
        expression = _expression(_steps(tokenizer.pre_tokenizer, "pretokenizers"))
        return None if expression is None or not _reads_all(expression) else cls(tokenizer, expression)

    def count(self, text: str) -> int | None:
        """The number of tokens of a text; None where the tokenizer should be asked.

        It holds no lone surrogates.
        """
        pieces = self._pieces(text)
        if pieces is None:
            return None
        table, rows = self._look_up(pieces)
        return int(table.count[rows].sum())

    def starts(self, text: str) -> IntArray | None:
        """Where the tokens of such a text start, int64 [tokens]; None likewise."""
        pieces = self._pieces(text)
        if pieces is None:
            return None
        table, rows = self._look_up(pieces)
        lengths, counts = table.length[rows], table.count[rows]
        begins, before = np.cumsum(lengths) - lengths, np.cumsum(counts) - counts
        places = np.arange(int(counts.sum())) + np.repeat(table.first[rows] - before, counts)
        found: IntArray = np.repeat(begins, counts) + table.at[places]
        return found

    def _pieces(self, text: str) -> list[str] | None:
        """The text in pieces of one pre-token or several.

        None where it holds an added token, or more words beyond ASCII than others.
        """
        if any(head in text and any(map(text.__contains__, added)) for head, added in self._added.items()):
            return None
        if text.isascii():
            return self._in_ascii(text, 0, len(text))
        beyond = list(self._beyond_ascii(text))
        if 2 * sum(stop - start for start, stop in beyond) > len(text):
            return None
        pieces: list[str] = []
        end = 0
        for start, stop in beyond:
            pieces += self._in_ascii(text, end, start)
            pieces.append(text[start:stop])
            end = stop
        return pieces + self._in_ascii(text, end, len(text))

    def _in_ascii(self, text: str, start: int, stop: int) -> list[str]:
        """The pre-tokens of a stretch of ASCII; other threads have their turn between parts of it."""
        pieces: list[str] = []
        while stop - start > _TURN:
            end = text.find(" ", start + _TURN, stop)
            while end > 0 and text[end - 1].isspace():
                end = text.find(" ", end + 1, stop)
            if end < 0:
                break
            pieces += self._read(text, start, end)
            start = end
        return pieces + self._read(text, start, stop)

    def _beyond_ascii(self, text: str) -> Iterator[tuple[int, int]]:
        """Where words with a character beyond ASCII start and end, with the white space before them."""
        points = code_points(text)
        kind = np.minimum(points, len(_WHITE) - 1)
        white = _WHITE[kind]
        begins = self._ends[kind[1:]] & ~white[:-1]
        starts = np.append(0, np.flatnonzero(begins) + 1)
        ends = np.append(starts[1:], len(text))
        beyond = np.flatnonzero(np.logical_or.reduceat(points > 127, starts))
        return zip(starts[beyond].tolist(), ends[beyond].tolist(), strict=True)

    def _look_up(self, pieces: list[str]) -> tuple[_Table, IntArray]:
        """A table that has all of the pieces, and their rows."""
        table = self._table
        rows = np.fromiter(map(table.rows.get, pieces, repeat(-1)), dtype=np.int64, count=len(pieces))
        if (rows >= 0).all():
            return table, rows
        with self._lock:
            if len(table.rows) > _PIECES or table.characters > _CHARACTERS:
                table = self._table = _Table()
        new = [piece for piece in dict.fromkeys(pieces) if piece not in table.rows]
        starts = self._encoded(new)  # without the lock: others need not wait for it
        with self._lock:
            missing = [n for n, piece in enumerate(new) if piece not in table.rows]
            table.add([new[n] for n in missing], [starts[n] for n in missing])
        rows = np.fromiter(map(table.rows.__getitem__, pieces), dtype=np.int64, count=len(pieces))
        return table, rows

    def _encoded(self, pieces: Sequence[str]) -> list[Sequence[int]]:
        """Where the tokens of each piece start in it."""
        found: list[Sequence[int]] = []
        rest: list[int] = []
        tokens_of = self._tokenizer.model.tokenize
        for n, piece in enumerate(pieces):
            starts: list[int] = []
            if len(piece) <= _SHORT and piece.isascii() and piece.isprintable():
                # Its bytes are written as themselves, but for the space: the model alone reads it in a third.
                ends = list(accumulate(len(token.value) for token in tokens_of(piece.replace(" ", "\u0120"))))
                starts = [0, *ends[:-1]] if ends and ends[-1] == len(piece) else []
            found.append(starts)
            if not starts:
                rest.append(n)
        asked = self._tokenizer.encode_batch([pieces[n] for n in rest], add_special_tokens=False)
        for n, encoding in zip(rest, asked, strict=True):
            found[n] = [start for start, _ in encoding.offsets]
        return found
