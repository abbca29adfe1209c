"""Late interaction without context: what the vectors of a question's and a text's words alone say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tokenprune.arrays import Float32Array, FloatArray, IntArray
from tokenprune.models.labeler import Labeler
from tokenprune.units import Units

SHIPPED = "provence-mini"  # a labeler that is part of the package and has word vectors; English
_AT_ONCE = 2**22  # similarities of a part of the texts, 16 MB


@dataclass(frozen=True)
class WordVectors:
    """Best cosine of each question token among the tokens of a unit, weighed by how rare the token is.

    ColBERT's MaxSim (arXiv 2004.12832, section 3.3, equation 3) as a mean, over the word vectors that a
    labeler begins with: no layer is run, so a hundred thousand tokens take a fraction of a second.

    Args:
        model: a labeler that has word vectors (see `Labeler.words`), or what `Labeler.load` makes one of.
        context: whether a unit has the words of the headings above it, or else of the document's title, too.
    """

    model: str | Labeler
    context: bool = False

    def score(self, query: str, documents: Sequence[Units]) -> list[FloatArray]:
        """Return means of cosines in [-1, 1]; -1 for a unit without tokens, 0 for all if the query has none.

        Raises:
            ValueError: the labeler has no word vectors.
        """
        labeler = Labeler.of(self.model)
        if labeler.words is None:
            raise ValueError(f"the labeler {labeler.name!r} has no word vectors")
        sizes = [len(units) for units in documents]
        texts = [text for units in documents for text in units.texts]
        above = [c or u.document.title or "" for u in documents for c in u.context] if self.context else []
        leads = list(dict.fromkeys(above))
        asked, *ids = (read.ids for read in labeler.text.read([query, *texts, *leads]))
        if not len(asked) or not texts:
            return [np.zeros(n) for n in sizes]
        lengths = np.asarray([len(own) for own in ids], dtype=np.int64)
        distinct, place = np.unique(np.concatenate((*ids, asked)), return_inverse=True)
        vectors, rarity = labeler.words.vectors(distinct), labeler.words.rarity(distinct)
        mine = place[int(lengths.sum()) :]
        share = rarity[mine] / max(float(rarity[mine].sum()), 1e-6)
        best = _best(vectors[mine] @ vectors.T, place, lengths)
        if self.context:
            number = {lead: len(texts) + i for i, lead in enumerate(leads)}
            best = np.maximum(best[:, : len(texts)], best[:, [number[lead] for lead in above]])
        return np.split((share @ best).astype(np.float64), np.cumsum(sizes)[:-1])


def _best(cosine: Float32Array, place: IntArray, lengths: IntArray) -> Float32Array:
    """Largest of each text's columns of ``cosine``, float32 [q, n]; texts lie one behind the other."""
    ends = np.cumsum(lengths)
    found = np.full((len(cosine), len(lengths)), -1.0, dtype=np.float32)
    filled = np.flatnonzero(lengths)
    step = max(1, _AT_ONCE // max(1, len(cosine)))
    while len(filled):
        first = int(ends[filled[0]] - lengths[filled[0]])
        count = max(1, int(np.searchsorted(ends[filled], first + step, side="right")))
        now, filled = filled[:count], filled[count:]
        columns = cosine[:, place[first : int(ends[now[-1]])]]
        found[:, now] = np.maximum.reduceat(columns, ends[now] - lengths[now] - first, axis=1)
    return found
