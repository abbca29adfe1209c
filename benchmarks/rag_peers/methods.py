"""Other packages under the interface that `tokenprune.bench.tradeoff` measures.

Pages of one request are joined, as HtmlRAG does. What a package answers counts as it is, one token over the
budget included; where it raises, nothing is left of the documents, and the failure is counted.

Not here: LLMLingua-2 (its weights cannot be had offline) and kvpress 0.5.5, which asks for transformers below
5.3 while the models here are read by 5.19 and drops keys and values after a prefill of the whole prompt:
benchmarks/kv_peers compares with it, in an environment of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec

import numpy as np

from benchmarks.html import chunks, peers
from tokenprune.bench.tradeoff import WARM, Prunes
from tokenprune.budget import Budget
from tokenprune.document import Document, Kind
from tokenprune.errors import ConfigError
from tokenprune.pipeline import Pipeline
from tokenprune.tokens import TokenCounter

MODEL = "minilm-l6"  # the encoder of all methods that embed
Run = Callable[[str, str, int], str]  # question, page, budget in tokens -> what is left


@dataclass
class Result:
    documents: list[Document]
    tokens_before: int
    tokens_after: int
    seconds: float


@dataclass
class Peer:
    """A package that cuts a page down for a question.

    Attributes:
        name: shown in the report.
        run: the package.
        kind: of what it returns.
        counter: of tokens.
        failures: requests for which the package raised.
    """

    name: str
    run: Run
    kind: Kind
    counter: TokenCounter
    failures: list[str] = field(default_factory=list)

    def prune(self, query: str, documents: Sequence[Document], budget: Budget | None = None) -> Result:
        """Return one document; pages that fit the budget go through the package all the same."""
        page = "\n".join(document.text for document in documents)
        before = int(self.counter.count_many([document.text for document in documents]).sum())
        limit = (budget or Budget()).limit(before)
        if limit is None:
            raise ConfigError(f"{self.name} needs a budget: leave `adaptive` out of --budgets")
        begin = time.perf_counter()
        try:
            text = self.run(query, page, limit)
        except (AssertionError, AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            if query != WARM:
                self.failures.append(f"{type(error).__name__}: {error}")
            text = ""
        seconds = time.perf_counter() - begin
        return Result([Document(text, kind=self.kind)], before, self.counter.count(text), seconds)


def _htmlrag(counter: TokenCounter, mended: bool) -> Run:
    from tokenprune.models.catalog import resolve_model

    ranker, tokens = peers.embed_pruner(resolve_model(MODEL)), peers.Tokens(counter)

    def run(question: str, page: str, limit: int) -> str:
        peers.tree.cache_clear()  # a request of its own, whatever was asked of the page before
        left = peers.prune(question, page, [limit], tokens, ranker, mended)[limit]
        if isinstance(left, Exception):
            raise left
        return left

    return run


def _extracted(counter: TokenCounter) -> Run:
    if find_spec("trafilatura") is None:
        raise peers.PeerMissing("trafilatura is not installed; `make bench-html` installs it beside .venv")
    cut = Pipeline(["none"], tokenizer=counter.name)

    def run(question: str, page: str, limit: int) -> str:
        text = Document(peers.trafilatura_text(page), kind="text")
        return cut.prune(question, [text], Budget(max_tokens=limit)).documents[0].text

    return run


def _chunked(counter: TokenCounter, embedded: bool) -> Run:
    def run(question: str, page: str, limit: int) -> str:
        parts = chunks.chunks(chunks.page_text(page))
        scores = _cosines(question, parts) if embedded else chunks.okapi(question, parts)
        return chunks.fill(parts, scores, limit, counter.count)

    return run


def _cosines(question: str, parts: Sequence[str]) -> np.ndarray:
    from tokenprune.models.encoder import Encoder

    vectors = Encoder.load(MODEL).encode([question, *parts])
    return np.asarray(vectors[1:] @ vectors[0], dtype=float)


PAGES: dict[str, tuple[Callable[[TokenCounter], Run], Kind]] = {
    "htmlrag-0.1.1": (lambda counter: _htmlrag(counter, False), "html"),
    "htmlrag-0.1.1-mended": (lambda counter: _htmlrag(counter, True), "html"),
    "trafilatura-head": (_extracted, "text"),
    "chunks-bm25": (lambda counter: _chunked(counter, False), "text"),
    "chunks-minilm": (lambda counter: _chunked(counter, True), "text"),
}


def peer(name: str, counter: TokenCounter) -> Peer:
    """Return a package under its name in `PAGES`.

    Raises:
        PeerMissing: it is not installed.
    """
    made, kind = PAGES[name]
    return Peer(name, made(counter), kind, counter)


def methods(
    ours: Sequence[str], peer_names: Sequence[str], tokenizer: str, note: Callable[[str], None]
) -> dict[str, Prunes]:
    """Return ours and the packages that are installed here; say which are not."""
    found: dict[str, Prunes] = {name: Pipeline([name], tokenizer=tokenizer) for name in ours}
    counter = Pipeline(["none"], tokenizer=tokenizer).counter
    for name in peer_names:
        try:
            found[name] = peer(name, counter)
        except peers.PeerMissing as error:
            note(f"skipped {name}: {error}")
    return found
