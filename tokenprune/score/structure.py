"""What the structure of a document says about scores, whatever scorer gives them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from tokenprune.arrays import FloatArray
from tokenprune.score import Scorer, within
from tokenprune.units import Units


@dataclass(frozen=True)
class Structured:
    """Let titles and repetitions not pass for answers.

    A heading or an entry of a table of contents resembles the question more than the answer does, and says
    nothing. So a unit that only repeats a heading or an earlier unit, and a heading that leads others, get
    the lowest score of the call: a heading comes along when something below it is kept.
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


def _empty_of_answers(units: Units) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    leading = np.zeros(len(units), dtype=bool)
    heads = units.lead[units.lead >= 0]
    if units.along is not None:
        heads = heads[~units.along[heads]]  # a row of data that others are read with is content
    leading[heads] = True
    titles = {_folded(units.texts[i]) for i in np.unique(heads).tolist() if len(units.texts[i]) < 200}
    seen: set[str] = set()
    for i, text in enumerate(units.texts):
        key = _folded(text)
        if leading[i] and len(text) >= 200:  # a long lead is content as well
            leading[i] = False
        elif key in titles or key in seen:
            leading[i] = True
        seen.add(key)
    return leading


def _folded(text: str) -> str:
    return "".join(c for c in text.lower() if c.isalnum())
