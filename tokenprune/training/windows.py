"""Questions as the windows that the network reads in training: framed and cut as at inference.

But for long questions and titles: of those a `Labeler` reads more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np

from tokenprune.arrays import Float32Array, IntArray
from tokenprune.models.labeler.labeler import break_tokens
from tokenprune.models.labeler.text import Frame, TextReader
from tokenprune.models.labeler.types import Batch
from tokenprune.models.labeler.windows import cut
from tokenprune.training.mixture import MIXTURE
from tokenprune.training.sets import Item, Passage

if TYPE_CHECKING:
    import torch

UNKNOWN = -1  # label of a sentence that nobody judged
_LONGEST_QUESTION = 64
_LONGEST_TITLE = 24


@dataclass(frozen=True)
class Row:
    """One window.

    Attributes:
        ids: int64 [t].
        query: columns of the question's tokens, first and behind the last.
        begin: column where the passage's sentences begin, behind frame, question and title.
        sentence: int64 [t], sentence of the window that a token lies in, -1 outside.
        labels: int64 [s], 1, 0 or UNKNOWN.
        relevant: whether its passage has evidence.
    """

    ids: IntArray
    query: tuple[int, int]
    begin: int
    sentence: IntArray
    labels: IntArray
    relevant: bool


@dataclass(frozen=True)
class Question:
    """The windows of one question; ``weight`` is that of its sentence labels."""

    rows: tuple[Row, ...]
    weight: float


@dataclass(frozen=True)
class WindowMaker:
    """Turns items into windows of at most ``max_length`` tokens."""

    reader: TextReader
    frame: Frame
    max_length: int

    def make(self, item: Item) -> Question:
        """Read all passages of an item."""
        asked = self.reader.read([item.question])[0].ids[:_LONGEST_QUESTION]
        by_passage = item.label_type == "passage_relevance"
        rows = [row for p in item.passages for row in self._rows(asked, p, by_passage)]
        part = MIXTURE.get(item.set_name)
        return Question(tuple(rows), part.weight if part else 1.0)

    def _rows(self, asked: IntArray, passage: Passage, by_passage: bool) -> Iterator[Row]:
        starts = [0, *accumulate(len(s) + 1 for s in passage.sentences)][:-1]
        title, own = self.reader.read([passage.title, passage.text])
        edges = break_tokens(own, starts[1:])
        head = np.concatenate(
            (self.frame.before, asked, self.frame.between, title.ids[:_LONGEST_TITLE])
        ).astype(np.int64)
        tail = np.asarray(self.frame.after, dtype=np.int64)
        of = np.searchsorted(edges, np.arange(len(own.ids)), side="right")
        labels = np.asarray(passage.labels, dtype=np.int64)
        if by_passage and passage.relevant:
            labels = np.full_like(labels, UNKNOWN)  # some sentence of it answers, nobody said which
        for start, end in cut(len(own.ids), edges, self.max_length - len(head) - len(tail)):
            first, behind = int(of[start]), int(of[end - 1]) + 1
            sentence = np.full(len(head) + end - start + len(tail), -1, dtype=np.int64)
            sentence[len(head) : len(head) + end - start] = of[start:end] - first
            marks = labels[first:behind]
            # Of a passage that is cut only the part with the evidence answers.
            relevant = passage.relevant and (by_passage or bool(marks.any()))
            yield Row(
                np.concatenate((head, own.ids[start:end], tail)),
                (len(self.frame.before), len(self.frame.before) + len(asked)),
                len(head),
                sentence,
                marks,
                relevant,
            )


def batch(rows: Sequence[Row], pad: int) -> Batch:
    """Pad windows to one width."""
    width = max(len(r.ids) for r in rows)
    ids = np.full((len(rows), width), pad, dtype=np.int64)
    mask = np.zeros_like(ids)
    sentence = np.full_like(ids, -1)
    for i, row in enumerate(rows):
        ids[i, : len(row.ids)] = row.ids
        mask[i, : len(row.ids)] = 1
        sentence[i, : len(row.ids)] = row.sentence
    query = np.asarray([r.query for r in rows], dtype=np.int64)
    passage = np.asarray([(r.begin, len(r.ids) - 1) for r in rows], dtype=np.int64)
    return Batch(ids, mask, np.zeros_like(ids), query, passage, sentence)


def steps(questions: Iterable[Question], tokens: int) -> Iterator[list[Question]]:
    """Group questions to steps of at least ``tokens`` tokens; what is left at the end is no step."""
    now: list[Question] = []
    size = 0
    for question in questions:
        now.append(question)
        size += sum(len(r.ids) for r in question.rows)
        if size >= tokens:
            yield now
            now, size = [], 0


def rarity(texts: Iterable[str], reader: TextReader, vocabulary: int) -> torch.Tensor:
    """Inverse document frequency of each word piece, float32 [vocabulary]: ``log((n + 1) / (df + 1))``.

    Pieces that occur in no text are as rare as one that occurs in one.
    """
    import torch

    found = list(texts)
    count = np.zeros(vocabulary, dtype=np.float32)
    for at in range(0, len(found), 4096):
        for tokens in reader.read(found[at : at + 4096]):
            count[np.unique(tokens.ids)] += 1
    idf: Float32Array = np.log((len(found) + 1) / (np.maximum(count, 1) + 1)).astype(np.float32)
    return torch.from_numpy(idf)
