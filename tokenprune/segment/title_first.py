"""Texts whose first sentence is their title."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from tokenprune.document import Document
from tokenprune.segment.by_kind import ByKind
from tokenprune.tokens import TokenCounter
from tokenprune.units import Units


@dataclass(frozen=True)
class TitleFirst:
    """Let the first unit of a text lead all others: it stays when any of them does.

    A document with a title of its own, and HTML, whose headings lead what stands below them, are left as they
    are.

    Args:
        segmenter: cuts the documents.
    """

    segmenter: ByKind

    def segment(self, document: Document, counter: TokenCounter) -> Units:
        """Cut a document and name its first unit the lead of those that have none."""
        units = self.segmenter.segment(document, counter)
        if document.kind == "html" or document.title or len(units) < 2:
            return units
        lead = np.where(units.lead < 0, 0, units.lead)
        lead[0] = -1
        return replace(units, lead=lead)

    def finer(self, max_tokens: int) -> TitleFirst:
        """Return a segmenter whose units are small enough for a budget."""
        return TitleFirst(self.segmenter.finer(max_tokens))
