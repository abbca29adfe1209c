"""The segmenter that looks at what kind of document it has."""

from __future__ import annotations

from dataclasses import dataclass, field

from tokenprune.document import Document
from tokenprune.segment.html_blocks import HtmlBlocks
from tokenprune.segment.passages import Passages
from tokenprune.segment.sentences import Sentences
from tokenprune.tokens import TokenCounter
from tokenprune.units import Units


@dataclass(frozen=True)
class ByKind:
    """HTML into small blocks (about a sentence or two), everything else into sentences (or passages)."""

    html: HtmlBlocks = field(default_factory=lambda: HtmlBlocks(max_words=40))
    text: Sentences | Passages = field(default_factory=Sentences)

    def segment(self, document: Document, counter: TokenCounter) -> Units:
        """Choose by ``document.kind``."""
        part = self.html if document.kind == "html" else self.text
        return part.segment(document, counter)

    def finer(self, max_tokens: int) -> ByKind:
        """Return a segmenter whose units are small enough for a budget."""
        return ByKind(self.html.finer(max_tokens), self.text.finer(max_tokens))
