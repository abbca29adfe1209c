"""The baseline everybody has: plain text of the page in chunks of 100 words, the best ones first."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence

import bs4
import numpy as np

WORDS = 100
_TERM = re.compile(r"\w+")


def page_text(html: str) -> str:
    """Words of a page as BeautifulSoup gives them, without scripts and styles."""
    soup = bs4.BeautifulSoup(html, "html.parser")
    for element in soup(["script", "style"]):
        element.decompose()
    return soup.get_text("")


def chunks(text: str, words: int = WORDS) -> list[str]:
    """Cut a text into runs of ``words`` words, joined by single spaces."""
    parts = text.split()
    return [" ".join(parts[i : i + words]) for i in range(0, len(parts), words)]


def okapi(query: str, texts: Sequence[str], k1: float = 1.5, b: float = 0.75) -> np.ndarray:
    """BM25 of each text, float64 [n]; plain lower-case word tokens, Lucene's IDF (never negative)."""
    counts = [Counter(_TERM.findall(text.lower())) for text in texts]
    lengths = np.array([c.total() for c in counts], dtype=float)
    norm = k1 * (1 - b + b * lengths / max(1.0, lengths.mean())) if len(lengths) else lengths
    scores = np.zeros(len(texts))
    for term in sorted(set(_TERM.findall(query.lower()))):
        tf = np.array([c[term] for c in counts], dtype=float)
        df = np.count_nonzero(tf)
        idf = np.log(1 + (len(texts) - df + 0.5) / (df + 0.5))
        scores += idf * tf * (k1 + 1) / (tf + norm)
    return scores


def fill(texts: Sequence[str], scores: np.ndarray, budget: int, count: Callable[[str], int]) -> str:
    """Join the best chunks that fit, in document order; one that does not fit is passed over.

    Chunks are counted once each: SmolLM2's tokenizer never joins words across a space.
    """
    costs = [count(" " + text) for text in texts]
    left, kept = budget, []
    for i in np.argsort(-scores, kind="stable").tolist():
        if costs[i] <= left:
            kept.append(i)
            left -= costs[i]
    return " ".join(texts[i] for i in sorted(kept))
