"""Segmenters: a document -> its units."""

from __future__ import annotations

from typing import Protocol

from tokenprune.document import Document
from tokenprune.tokens import TokenCounter
from tokenprune.units import Units


class Segmenter(Protocol):
    """Cuts one document into units whose ranges cover it."""

    def segment(self, document: Document, counter: TokenCounter) -> Units:
        """Return the units of a document; their costs are in the counter's tokens.

        A segmenter may also have ``finer(max_tokens) -> Segmenter``: asked for when one of its units alone
        would take most of a budget.
        """
        ...
