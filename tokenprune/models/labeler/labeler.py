"""Reading passages for a question with a labeler: windows, batches, and their results put together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tokenprune.arrays import Float32Array, IntArray
from tokenprune.errors import ModelError
from tokenprune.given_up import look
from tokenprune.models.batches import PADDED_TOKENS_CPU, TOKENISE_AT_ONCE, by_length
from tokenprune.models.labeler.text import Frame, TextReader, Tokens
from tokenprune.models.labeler.types import DEFAULT_THRESHOLD, Batch, Labels, Network, Passage, Read, Words
from tokenprune.models.labeler.windows import cut, merge
from tokenprune.models.once import Once, state_of
from tokenprune.models.side_by_side import side_by_side

if TYPE_CHECKING:
    import torch

# Shares of a window that a long question and a long title may take at most; the rest of them is not read.
_QUERY_SHARE = 0.5
_TITLE_SHARE = 0.25
_LEAST_WINDOW = 16

_models: Once[Labeler] = Once()


class _Window(NamedTuple):
    passage: int
    start: int
    end: int


@dataclass(frozen=True, eq=False)
class Labeler:
    """A sentence labeler; `load` makes one of a published checkpoint. Safe to use from several threads.

    Attributes:
        name: what it was asked for by.
        text: turns texts into token ids.
        frame: special tokens around question and passage.
        network: gives rank logits and keep probabilities.
        max_length: tokens of a window: question, title, a part of the passage and special tokens.
        default_threshold: mean keep probability above which a sentence stays, by the model's own account.
        title_end: what stands between a title and its passage, as the model was trained.
        plain_query: whether the question is lower-cased and freed of punctuation, as the model was trained.
        batch_tokens: most padded tokens of a batch.
        lexical: how much exact words count beside the model, as it was calibrated; see `Labeling`.
        rank_weight: how much `Labels.keep_rank` counts for a passage's sentences, in logits per unit; see
            `Labeling`.
        rank_slack: how far below the best rank of a call it begins to count.
        lone_batches: whether batches are read side by side, each by one thread: small networks on a CPU.
        words: vectors of words alone, by which texts that are about something else can be ruled out before
            they are read; None: the model is not known to have any that are good for that.
    """

    name: str
    text: TextReader
    frame: Frame
    network: Network
    max_length: int
    default_threshold: float = DEFAULT_THRESHOLD
    title_end: str = ""
    plain_query: bool = False
    batch_tokens: int = PADDED_TOKENS_CPU
    lexical: float = 0.0
    rank_weight: float = 0.0
    rank_slack: float = 0.0
    lone_batches: bool = False
    words: Words | None = None

    def __post_init__(self) -> None:
        if self.max_length < len(self.frame) + _LEAST_WINDOW:
            raise ModelError(
                f"the window of {self.name!r} is {self.max_length} tokens; a labeler needs "
                f"{len(self.frame) + _LEAST_WINDOW} or more"
            )

    @classmethod
    def load(
        cls,
        name_or_path: str,
        device: str | None = None,
        dtype: str | torch.dtype | None = None,
    ) -> Labeler:
        """Load a named model, a folder or a hub id; the same arguments give the same object in a process.

        Args:
            name_or_path: a folder in Hugging Face layout, a hub id, or a name of ``tokenprune models list``.
            device: a torch device; the accelerator or else the CPU by default.
            dtype: ``bfloat16``, ``float16`` or ``float32``; by default bfloat16 where the hardware has it.

        Raises:
            ModelError: the model cannot be found or fetched, is of no known family, has no safe weights, or
                its weights do not fit.
            MissingExtraError: torch or transformers is not installed.
        """
        from tokenprune.models.labeler.families import load_labeler

        key = (name_or_path, state_of(name_or_path), device, None if dtype is None else str(dtype))
        return _models.get(key, lambda: load_labeler(name_or_path, device, dtype))

    @classmethod
    def of(cls, model: str | Labeler) -> Labeler:
        """Return a labeler that is given as it is, and load one that is named."""
        return model if isinstance(model, Labeler) else cls.load(model)

    def label(self, query: str, passages: Sequence[Passage]) -> list[Labels]:
        """Read passages for a question.

        All passages are read in batches of windows of like length. Each window holds the question (at most
        half of it), the passage's title (at most a quarter of what is left) and a part of the passage; see
        `windows` for where long ones are cut and how their results are put together.

        Args:
            query: the question.
            passages: any texts; the empty one has no labels.

        Returns:
            One `Labels` per passage, in their order.
        """
        query = _plain(query) if self.plain_query else query
        asked = self.text.read([query])[0].ids[: int(_QUERY_SHARE * (self.max_length - len(self.frame)))]
        out: list[Labels] = []
        for at in range(0, len(passages), TOKENISE_AT_ONCE):
            out += self._label(asked, passages[at : at + TOKENISE_AT_ONCE])
        return out

    def _label(self, query: IntArray, passages: Sequence[Passage]) -> list[Labels]:
        tokens = self.text.read([p.text for p in passages])
        room = self.max_length - len(self.frame) - len(query)
        titles = self._titles(passages, int(_TITLE_SHARE * room))
        windows: list[_Window] = []
        edges = [break_tokens(own, p.breaks) for p, own in zip(passages, tokens, strict=True)]
        of: list[list[int]] = []  # windows of each passage
        for n, (own, title) in enumerate(zip(tokens, titles, strict=True)):
            parts = cut(len(own.ids), edges[n], room - len(title))
            of.append(list(range(len(windows), len(windows) + len(parts))))
            windows += [_Window(n, start, end) for start, end in parts]
        lead = len(self.frame) + len(query)
        lengths = [lead + len(titles[w.passage]) + w.end - w.start for w in windows]
        ranks = np.zeros((len(windows), 2), dtype=np.float32)  # both of `Labels`
        keep: list[Float32Array] = [np.empty(0, dtype=np.float32)] * len(windows)

        def read_rows(rows: IntArray) -> tuple[Batch, Read]:
            parts_of = [
                (titles[w.passage], tokens[w.passage].ids[w.start : w.end], _sentences(edges[w.passage], w))
                for w in (windows[row] for row in rows.tolist())
            ]
            batch = self._batch(query, parts_of)
            return batch, self.network.run(batch)

        batches = list(by_length(np.asarray(lengths, dtype=np.int64), self.batch_tokens))
        done = (side_by_side if self.lone_batches else map)(read_rows, batches)
        for rows, (batch, read) in zip(batches, done, strict=True):
            look()
            ranks[rows] = np.stack((read.rank, read.keep_rank), -1)
            for i, row in enumerate(rows.tolist()):
                begin, behind = batch.passage[i].tolist()
                keep[row] = read.keep[i, begin:behind].astype(np.float32)  # a copy: the batch can go
        labels = []
        for own, mine in zip(tokens, of, strict=True):
            spans = [(windows[w].start, windows[w].end) for w in mine]
            best, probability = merge(len(own.ids), spans, [keep[w] for w in mine], ranks[mine])
            rank, keep_rank = best.tolist()
            labels.append(Labels(rank, keep_rank, probability, own.start, own.end))
        return labels

    def _titles(self, passages: Sequence[Passage], most: int) -> list[IntArray]:
        """Token ids of each passage's title, each distinct title read once."""
        texts = [(p.title or "").strip() for p in passages]
        distinct = sorted({text for text in texts if text})
        read = self.text.read([text + self.title_end for text in distinct])
        ids = {text: own.ids[:most] for text, own in zip(distinct, read, strict=True)}
        none = np.empty(0, dtype=np.int64)
        return [ids.get(text, none) for text in texts]

    def _batch(self, query: IntArray, parts: Sequence[tuple[IntArray, IntArray, IntArray]]) -> Batch:
        frame = self.frame
        head = np.concatenate((frame.before, query, frame.between)).astype(np.int64)
        tail = np.asarray(frame.after, dtype=np.int64)
        rows = [np.concatenate((head, title, part, tail)) for title, part, _ in parts]
        width = max(map(len, rows))
        ids = np.full((len(rows), width), self.text.pad, dtype=np.int64)
        mask = np.zeros_like(ids)
        types = np.full_like(ids, frame.types[0])
        passage = np.empty((len(rows), 2), dtype=np.int64)
        sentence = np.full_like(ids, -1)
        for i, (row, (title, part, of)) in enumerate(zip(rows, parts, strict=True)):
            ids[i, : len(row)] = row
            mask[i, : len(row)] = 1
            types[i, len(head) : len(row)] = frame.types[1]
            begin = len(head) + len(title)
            passage[i] = begin, begin + len(part)
            sentence[i, begin : begin + len(part)] = of
        asked = np.asarray([len(frame.before), len(frame.before) + len(query)], dtype=np.int64)
        return Batch(ids, mask, types, np.tile(asked, (len(rows), 1)), passage, sentence)


def _sentences(edges: IntArray, window: _Window) -> IntArray:
    """Which stretch between breaks each token of a window lies in, int64 [end - start], from 0."""
    of = np.searchsorted(np.unique(edges), np.arange(window.start, window.end), side="right")
    return (of - of[:1]).astype(np.int64)


def break_tokens(tokens: Tokens, breaks: Sequence[int]) -> IntArray:
    """The first token of each stretch between breaks: one whose last character lies behind the break."""
    if not breaks:
        return np.empty(0, dtype=np.int64)
    last = np.maximum.accumulate(np.maximum(tokens.end - 1, tokens.start))
    return np.searchsorted(last, np.asarray(breaks, dtype=np.int64)).astype(np.int64)


# ASCII punctuation goes, as the published Provence reads questions (they are MS MARCO's: plain lower case).
_PUNCTUATION = str.maketrans("", "", "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")


def _plain(query: str) -> str:
    return " ".join(query.lower().translate(_PUNCTUATION).split()) or query
