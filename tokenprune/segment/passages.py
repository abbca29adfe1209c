"""Passages: short texts whole, long ones in runs of sentences; what a retriever ranks."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from tokenprune.document import Document
from tokenprune.segment.sentences import Sentences, sentence_starts, split_long
from tokenprune.segment.word_counts import word_count
from tokenprune.tokens import TokenCounter
from tokenprune.units import Units


@dataclass(frozen=True)
class Passages:
    """Segmenter: a text of up to ``max_words`` words is one unit, a longer one is cut between sentences.

    Args:
        max_words: of a passage; a longer sentence is cut at a line end or between words. Of scripts without
            spaces two characters count as a word, and some of these scripts show no ends of sentences.
    """

    max_words: int = 200

    def segment(self, document: Document, counter: TokenCounter) -> Units:
        """Cut a text into passages; they cover it."""
        return Units.from_starts(document, self._starts(document.text), counter)

    def _starts(self, text: str) -> list[int]:
        if word_count(text) <= self.max_words:
            return [0] if text else []
        starts, words = [0], 0
        for a, b in pairwise([*self._shorter(text, sentence_starts(text)), len(text)]):
            own = word_count(text[a:b])
            if words and words + own > self.max_words:
                starts.append(a)
                words = 0
            words += own
        return starts

    def _shorter(self, text: str, starts: list[int]) -> list[int]:
        """Cut the sentences of more words than a passage may have."""
        cut: list[int] = []
        for a, b in pairwise([*starts, len(text)]):
            words = word_count(text[a:b])
            size = b - a if words <= self.max_words else max(1, (b - a) * self.max_words // words)
            cut += [a + start for start in split_long(text[a:b], [0], size)]
        return cut

    def finer(self, max_tokens: int) -> Sentences:
        """Return what cuts a text whose passages are too large for a budget."""
        return Sentences().finer(max_tokens)
