"""Units of a token, or of the tokens of one word: what prompt-token selection keeps and drops."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tokenprune.document import Document
from tokenprune.segment.words import inside_words
from tokenprune.tokens import TokenCounter
from tokenprune.units import Units


@dataclass(frozen=True)
class Tokens:
    """Segmenter: a unit per token of the counter's tokenizer; those of one word or number stay together."""

    def segment(self, document: Document, counter: TokenCounter) -> Units:
        """Cut a text where its tokens start, outside words."""
        places = np.unique(counter.starts(document.text))
        starts = places[~inside_words(document.text, places)].tolist()
        if document.text and (not starts or starts[0] > 0):
            starts = [0, *starts]
        return Units.from_starts(document, starts, counter)
