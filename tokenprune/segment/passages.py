"""Passages: short texts whole, long ones in runs of sentences; what a retriever ranks."""

from __future__ import annotations

from dataclasses import dataclass

from tokenprune.document import Document
from tokenprune.segment.sentences import Sentences, sentence_starts
from tokenprune.tokens import TokenCounter
from tokenprune.units import Units


@dataclass(frozen=True)
class Passages:
    """Segmenter: a text of up to ``max_words`` words is one unit, a longer one is cut between sentences.

    Args:
        max_words: of a passage; a longer sentence is a passage of its own.
    """

    max_words: int = 200

    def segment(self, document: Document, counter: TokenCounter) -> Units:
        """Cut a text into passages; they cover it."""
        return Units.from_starts(document, self._starts(document.text), counter)

    def _starts(self, text: str) -> list[int]:
        if len(text.split()) <= self.max_words:
            return [0] if text else []
        found = sentence_starts(text)
        starts, words = found[:1], 0
        for a, b in zip(found, [*found[1:], len(text)], strict=True):
            own = len(text[a:b].split())
            if words and words + own > self.max_words:
                starts.append(a)
                words = 0
            words += own
        return starts

    def finer(self, max_tokens: int) -> Sentences:
        """Return what cuts a text whose passages are too large for a budget."""
        return Sentences().finer(max_tokens)
