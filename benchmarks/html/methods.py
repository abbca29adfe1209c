"""Methods under one call: (question, page, budgets) -> output per budget."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from importlib.metadata import version
from typing import Any

import numpy as np

import tokenprune as tp
from benchmarks.common.store import code_version
from benchmarks.html import chunks, peers
from tokenprune.errors import TokenPruneError
from tokenprune.segment.html_blocks import HtmlBlocks
from tokenprune.tokens import TokenCounter, get_counter
from tokenprune.units import Units

MODEL = "minilm-l6"
Outputs = dict[int, "str | Exception"]


@dataclass(frozen=True)
class Method:
    """Something that cuts a page down for a question.

    Attributes:
        run: question, page, budgets -> an output (or what was raised) per budget.
        form: of the output, ``html`` or ``text`` (Markdown is text).
        ours: whether this project's.
        version: of the code that made a result; a stored result of another version is not used.
        slow: runs on a smaller sample.
    """

    name: str
    run: Callable[[str, str, Sequence[int]], Outputs]
    form: str
    ours: bool
    version: str
    label: str
    slow: bool = False


def chunk_bm25(question: str, html: str, budgets: Sequence[int]) -> Outputs:
    parts = chunks.chunks(chunks.page_text(html))
    return _filled(parts, chunks.okapi(question, parts), budgets)


def chunk_minilm(question: str, html: str, budgets: Sequence[int]) -> Outputs:
    from tokenprune.models.encoder import Encoder

    parts = chunks.chunks(chunks.page_text(html))
    vectors = Encoder.load(MODEL).encode([question, *parts])
    return _filled(parts, vectors[1:] @ vectors[0], budgets)


def _filled(parts: list[str], scores: np.ndarray, budgets: Sequence[int]) -> Outputs:
    count = get_counter().count
    return {budget: chunks.fill(parts, scores.astype(float), budget, count) for budget in budgets}


@cache
def _tokens() -> peers.Tokens:
    return peers.Tokens(get_counter())


def _htmlrag(mended: bool, bm25: bool) -> Callable[[str, str, Sequence[int]], Outputs]:
    def run(question: str, html: str, budgets: Sequence[int]) -> Outputs:
        from tokenprune.models.catalog import resolve_model

        ranker = peers.htmlrag().BM25HTMLPruner() if bm25 else peers.embed_pruner(resolve_model(MODEL))
        return peers.prune(question, html, budgets, _tokens(), ranker, mended)

    return run


def _ours(pruner: tp.Pruner) -> Callable[[str, str, Sequence[int]], Outputs]:
    pipeline = tp.Pipeline([pruner])

    def run(question: str, html: str, budgets: Sequence[int]) -> Outputs:
        page = tp.Document(html, kind="html")
        return {
            budget: pipeline.prune(question, [page], tp.Budget(max_tokens=budget)).documents[0].text
            for budget in budgets
        }

    return run


PEERS = {
    "htmlrag-published": (_htmlrag(False, False), "html", "htmlrag as published, MiniLM"),
    "htmlrag-mended": (_htmlrag(True, False), "html", "htmlrag without its break, MiniLM"),
    "htmlrag-published-bm25": (_htmlrag(False, True), "html", "htmlrag as published, its BM25"),
    "htmlrag-mended-bm25": (_htmlrag(True, True), "html", "htmlrag without its break, its BM25"),
    "chunks-bm25": (chunk_bm25, "text", "100-word chunks, BM25"),
    "chunks-minilm": (chunk_minilm, "text", "100-word chunks, MiniLM"),
}
DEFAULT_PEERS = ("htmlrag-published", "htmlrag-mended", "htmlrag-mended-bm25", "chunks-bm25", "chunks-minilm")
DEFAULT_OURS = ("htmlrag-bm25", "htmlrag-embed", "hybrid", "htmlrag")


def peer(name: str, slow: bool = False) -> Method:
    """Return a method to compare with.

    Raises:
        PeerMissing: its package is not installed.
    """
    run, form, label = PEERS[name]
    made_by = "1"  # raise when chunks.py or peers.py changes what comes out
    if name.startswith("htmlrag"):
        peers.htmlrag()
        made_by += "-" + version("htmlrag")
    return Method(name, run, form, False, made_by, label, slow)


def ours(name: str, output: str = "same", slow: bool = False) -> Method:
    """Return one of our methods.

    Raises:
        TokenPruneError: there is no such method here, or it has no such output.
    """
    pruner = tp.pruner(name) if output == "same" else tp.pruner(name, output=output)
    label = f"ours: {name}" + ("" if output == "same" else f", {output}")
    key = name if output == "same" else f"{name}+{output}"
    return Method(
        key, _ours(pruner), "html" if output == "same" else "text", True, code_version(), label, slow
    )


def available(
    names: Sequence[str], peer_names: Sequence[str], slow: Sequence[str], note: Callable[[str], None]
) -> list[Method]:
    """Return the methods that exist here; say which do not."""
    found: list[Method] = []
    for name in peer_names:
        try:
            found.append(peer(name, name in slow))
        except (peers.PeerMissing, KeyError) as error:
            note(f"skipped {name}: {error}")
    for name in names:
        try:
            found.append(ours(name, slow=name in slow))
        except TokenPruneError as error:
            note(f"skipped {name}: {error}")
    return found


@contextmanager
def remembering() -> Iterator[None]:
    """Within, texts that were embedded and pages that were cut are not done again, for us and for the peers.

    Questions about the same page and budgets of one question share this work; the results are those of a
    cold call, the time is not (it is measured outside).
    """
    from tokenprune.models.encoder import Encoder

    cold, segment, starts = Encoder.encode, HtmlBlocks.segment, TokenCounter.starts
    known: dict[tuple[Any, ...], np.ndarray] = {}

    def encode(
        self: Encoder, texts: Sequence[str], max_length: int = 256, prompt: str | None = None
    ) -> np.ndarray:
        keys = [(id(self), max_length, prompt, text) for text in texts]
        new = {key: key[-1] for key in keys if key not in known}
        if new:
            known.update(zip(new, cold(self, list(new.values()), max_length, prompt), strict=True))
        return np.array([known[key] for key in keys], dtype=np.float32).reshape(len(texts), self.dimension)

    segmenters: dict[str, HtmlBlocks] = {}

    @lru_cache(maxsize=64)
    def cut(segmenter: str, text: str, counter: TokenCounter) -> Units:
        return segment(segmenters[segmenter], tp.Document(text, kind="html"), counter)

    def units(self: HtmlBlocks, document: tp.Document, counter: TokenCounter) -> Units:
        key = repr(self)  # all its options, those of later versions included
        segmenters.setdefault(key, self)
        return replace(cut(key, document.text, counter), document=document)

    embedder = _peer_embedder()
    Encoder.encode = encode  # type: ignore[method-assign]
    HtmlBlocks.segment = units  # type: ignore[method-assign]
    TokenCounter.starts = lru_cache(maxsize=64)(starts)  # type: ignore[method-assign]
    if embedder is not None:
        embedder.remember = True
    try:
        yield
    finally:
        Encoder.encode = cold  # type: ignore[method-assign]
        HtmlBlocks.segment, TokenCounter.starts = segment, starts  # type: ignore[method-assign]
        if embedder is not None:
            embedder.remember = False


def _peer_embedder() -> Any:
    from tokenprune.models.catalog import resolve_model

    try:
        return peers.embed_pruner(resolve_model(MODEL)).embedder
    except peers.PeerMissing:
        return None


def forget() -> None:
    """Drop cached trees, so that the next call is timed cold."""
    peers.tree.cache_clear()
