"""Units of one token each: what prompt-token selection keeps and drops."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tokenprune.document import Document
from tokenprune.tokens import TokenCounter
from tokenprune.units import Units


@dataclass(frozen=True)
class Tokens:
    """Segmenter: a unit per token of the counter's tokenizer; tokens of one character stay together."""

    def segment(self, document: Document, counter: TokenCounter) -> Units:
        """Cut a text where its tokens start."""
        starts = np.unique(counter.starts(document.text)).tolist()
        if document.text and (not starts or starts[0] > 0):
            starts = [0, *starts]
        return Units.from_starts(document, starts, counter)
