"""What the structure of a document says about scores, whatever scorer gives them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from tokenprune.arrays import BoolArray, FloatArray
from tokenprune.score import Scorer, within
from tokenprune.segment.word_counts import word_count
from tokenprune.units import Units

_LONG = 20  # words: so many mean the same under another heading
_SENTENCE = 6  # words: what leads a list in so many, and is no heading, may hold the answer
_ENDS = (":", ".", "!", "\uff1a", "\u3002")


@dataclass(frozen=True)
class Structured:
    """Let titles and repetitions not pass for answers.

    A heading or an entry of a table of contents resembles the question more than the answer does, and says
    nothing. So a unit that only repeats a heading or an earlier unit or links to other places of a page, and
    a heading or header row that leads others, get the lowest score of the call: a heading comes along when
    something below it is kept. "Yes, in
    five days." behind another question or under another heading is another answer, and no repetition; a
    sentence that introduces a list is no heading.
    """

    scorer: Scorer

    def score(self, query: str, documents: Sequence[Units]) -> list[FloatArray]:
        """Return the scorer's scores with those of headings and repetitions lowered."""
        scores = self.scorer.score(query, documents)
        lowest = min((float(s.min()) for s in scores if len(s)), default=0.0)
        out: list[FloatArray] = []
        for units, score in zip(documents, scores, strict=True):
            out.append(np.where(_empty_of_answers(units), lowest, score))
        return out

    def within(self, max_tokens: int) -> Structured:
        """Pass a budget on."""
        return replace(self, scorer=within(self.scorer, max_tokens))


def _empty_of_answers(units: Units) -> BoolArray:
    empty = np.zeros(len(units), dtype=bool) if units.entry is None else units.entry.copy()
    heads = units.lead[units.lead >= 0]
    if units.along is not None:
        heads = heads[~units.along[heads]]  # a row of data that others are read with is content
    # A long lead is content too.
    leading = [i for i in np.unique(heads).tolist() if len(units.texts[i]) < 200]
    titles = {_folded(units.texts[i]) for i in leading}
    empty[[i for i in leading if not _is_sentence(units, i)]] = True
    seen: set[tuple[str, ...]] = set()
    before = ""
    for i, text in enumerate(units.texts):
        said = _folded(text)
        place = (said,) if word_count(text) >= _LONG else (said, before, units.context[i])
        if (said in titles and i not in leading) or said == before or place in seen:
            empty[i] = True
        seen.add(place)
        before = said
    return empty


def _is_sentence(units: Units, i: int) -> bool:
    text = units.texts[i].strip()
    heading = units.level is not None and units.level[i] > 0
    return not heading and text.endswith(_ENDS) and word_count(text) >= _SENTENCE


def _folded(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip("\xb6:.")
