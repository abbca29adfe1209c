"""BM25 over the units of one call (Robertson and Zaragoza 2009, with the IDF of Lucene, never negative)."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import regex

from tokenprune.arrays import FloatArray
from tokenprune.score import scorer_texts
from tokenprune.segment.word_counts import UNSPACED
from tokenprune.units import Units

# Scripts written without spaces are matched by character pairs; all else by words, to which the marks on
# their letters belong (the vowels of Hindi, say).
_LETTERS = rf"[[\p{{L}}\p{{N}}\p{{M}}]--[{UNSPACED}]]"
_TERM = regex.compile(rf"(?V1)[{UNSPACED}]+|{_LETTERS}+(?:'{_LETTERS}+)?")
_ASCII_TERM = re.compile("[a-z0-9]+(?:'[a-z0-9]+)?")
_UNSPACED = re.compile(f"[{UNSPACED}]")
# What stands behind an apostrophe in English contractions; otherwise a short word before it is elided.
_CONTRACTED = frozenset("t s d m re ve ll".split())
_ELIDED = 4  # letters at most

# Words of questions rather than of answers; a list this short cannot hide a topic.
STOPWORDS = frozenset(
    "a about an and any are as at be been being but by can could did do does doing for from get had has "
    "have how i if in into is it its may me might my of on or our should so that the their them then "
    "there these they this those to us was we were what when where which while who whom whose why will "
    "with would you your please tell explain describe list give name".split()
)
_SUFFIXES = ("ization", "ational", "fulness", "ousness", "iveness", "ingly", "ation", "ments", "ment", "ings",
             "edly", "ing", "ies", "ied", "ely", "ers", "ed", "es", "er", "ly", "s")  # fmt: skip


@lru_cache(maxsize=65_536)
def stem(word: str) -> str:
    """Cut common English suffixes, longest first, leaving at least four characters; never a digit.

    A "y" behind a consonant becomes "i", as in the plural.
    """
    if len(word) < 4 or not word.isascii() or not word.isalpha():
        return word
    for suffix in _SUFFIXES if len(word) > 4 else ():
        if word.endswith(suffix) and len(word) - len(suffix) >= 4 - (suffix == "s"):
            word = word[: -len(suffix)] + "i" * (suffix in ("ies", "ied"))
            break
    if word[-1] == "y" and word[-2] not in "aeiou":
        return word[:-1] + "i"
    if len(word) > 4 and word[-1] == "e":
        return word[:-1]
    return word[:-1] if len(word) > 4 and word[-1] == word[-2] and word[-1] not in "ls" else word


def terms(text: str) -> list[str]:
    """Split a text into lower-case, stemmed terms; Chinese, Japanese, Korean, Thai into character pairs.

    Possessives and elided articles are no part of a word: "Germany's" and "l'eau" are "germany" and "eau".
    """
    text = text.lower()
    if text.isascii():
        return [stem(_plain(word) if "'" in word else word) for word in _ASCII_TERM.findall(text)]
    out: list[str] = []
    for word in _TERM.findall(unicodedata.normalize("NFC", text).replace("\u2019", "'")):
        if _UNSPACED.match(word):
            out.extend(word[i : i + 2] for i in range(max(1, len(word) - 1)))
        else:
            out.append(stem(_plain(word) if "'" in word else word))
    return out


def _plain(word: str) -> str:
    """A word with an apostrophe in it without what is no part of it."""
    head, _, tail = word.partition("'")
    if tail == "s":
        return head
    return tail if len(head) <= _ELIDED and tail not in _CONTRACTED else word


@dataclass(frozen=True)
class BM25:
    """BM25 of each unit against the query; all units of the call are the collection.

    Args:
        k1: saturation of term frequency.
        b: how much long units are held back.
        context_weight: a match in the headings above a unit counts this much of one in its own text.
    """

    k1: float = 1.2
    b: float = 0.75
    context_weight: float = 1.0

    def score(self, query: str, documents: Sequence[Units]) -> list[FloatArray]:
        """Return BM25 sums, 0 where no query term occurs."""
        sizes = [len(u) for u in documents]
        asked = terms(query)
        wanted = set(asked) - {stem(w) for w in STOPWORDS} or set(asked)
        if not wanted or not sum(sizes):
            return [np.zeros(n) for n in sizes]
        column = {term: j for j, term in enumerate(sorted(wanted))}
        frequency = np.zeros((sum(sizes), len(column)))
        length = np.zeros(sum(sizes))
        row = 0
        for units in documents:
            headings: dict[str, Counter[str]] = {}
            for text, both in zip(units.texts, scorer_texts(units), strict=True):
                own = terms(text)
                length[row] = len(own)
                for term in own:
                    j = column.get(term)
                    if j is not None:
                        frequency[row, j] += 1
                above = both[: len(both) - len(text)]
                if above:
                    if above not in headings:
                        headings[above] = Counter(t for t in terms(above) if t in column)
                    for term, count in headings[above].items():
                        frequency[row, column[term]] += self.context_weight * min(count, 2)
                row += 1
        seen = (frequency > 0).sum(axis=0)
        idf = np.log1p((len(frequency) - seen + 0.5) / (seen + 0.5))
        norm = self.k1 * (1 - self.b + self.b * length / max(1.0, float(length.mean())))
        scores = (idf * frequency * (self.k1 + 1) / (frequency + norm[:, None])).sum(axis=1)
        return np.split(scores, np.cumsum(sizes)[:-1])
