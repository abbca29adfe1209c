"""The published package `htmlrag` as its README uses it, and the same with its early break taken out."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from typing import Any

from tokenprune.tokens import TokenCounter

MAX_WORDS = 256  # of a block in the first step (HtmlRAG, arXiv 2411.02959)


class PeerMissing(RuntimeError):
    """A package to compare with is not installed."""


def htmlrag() -> Any:
    try:
        import htmlrag as package
        import htmlrag.pruner
    except ImportError as error:
        raise PeerMissing(
            f"htmlrag cannot be imported ({error}); `make bench-html` installs it beside .venv"
        ) from error
    return package


class Tokens:
    """SmolLM2's tokenizer with the three calls that htmlrag makes; tokenizes as fast as the library can."""

    def __init__(self, counter: TokenCounter) -> None:
        self._counter = counter

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        return self._counter._encode(text).ids

    def tokenize(self, text: str) -> list[str]:
        return self._counter._encode(text).tokens

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        return self._counter._tokenizer.decoder.decode(tokens)


@cache
def embed_pruner(model_path: str) -> Any:
    """Its embedding pruner, on a model in a local folder; texts of a page are remembered when asked."""
    from tokenprune.models.device import loading_alone

    with loading_alone():
        pruner = htmlrag().EmbedHTMLPruner(embed_model=model_path)
    pruner.embedder = _remembering(pruner.embedder)
    return pruner


def _remembering(inner: Any) -> Any:
    from langchain_core.embeddings import Embeddings

    class Remembering(Embeddings):
        """The same vectors; a text met before is not computed again while ``remember`` is set."""

        remember = False
        known: dict[str, list[float]] = {}  # noqa: RUF012

        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            if not self.remember:
                return inner.embed_documents(texts)
            new = [t for t in dict.fromkeys(texts) if t not in self.known]
            if new:
                self.known.update(zip(new, inner.embed_documents(new), strict=True))
            return [self.known[t] for t in texts]

        def embed_query(self, text: str) -> list[float]:
            return inner.embed_query(text)

    return Remembering()


@cache
def mended_prune() -> Callable[..., str]:
    """Its `prune_HTML` without the break that makes it keep the wrong blocks.

    The method measures blocks from the best one on and stops, by ``break``, at the first that exceeds the
    budget: all blocks behind it are then never dropped. Here that one ``if`` is removed from the installed
    source's syntax tree; everything else runs as published.
    """
    module = htmlrag().pruner
    tree = ast.parse(textwrap.dedent(inspect.getsource(module.Pruner.prune_HTML)))
    transformer = _WithoutBreak()
    tree = ast.fix_missing_locations(transformer.visit(tree))
    if transformer.removed != 1:
        raise PeerMissing(f"found {transformer.removed} early breaks in htmlrag's prune_HTML, not one")
    made: dict[str, Any] = {}
    exec(compile(tree, "htmlrag-mended", "exec"), vars(module), made)
    return made["prune_HTML"]


class _WithoutBreak(ast.NodeTransformer):
    removed = 0

    def visit_For(self, node: ast.For) -> ast.For:
        self.generic_visit(node)
        body = [child for child in node.body if not self._is_early_break(child)]
        self.removed += len(node.body) - len(body)
        node.body = body
        return node

    @staticmethod
    def _is_early_break(node: ast.stmt) -> bool:
        return (
            isinstance(node, ast.If)
            and isinstance(node.body[-1], ast.Break)
            and any(isinstance(n, ast.Name) and n.id == "max_context_window" for n in ast.walk(node.test))
        )


@lru_cache(maxsize=64)
def tree(html: str, max_words: int = MAX_WORDS) -> tuple[Any, str]:
    """Clean and cut a page; the blocks are only read afterwards, so pages asked again can share them."""
    package = htmlrag()
    return package.build_block_tree(package.clean_html(html), max_node_words=max_words)


def prune(
    question: str, html: str, budgets: Sequence[int], tokens: Tokens, ranker: Any, mended: bool
) -> dict[int, str | Exception]:
    """Run the package's first step at several budgets; its exceptions are results too."""
    blocks, simplified = tree(html)
    ranking = ranker.calculate_block_rankings(question, simplified, blocks)
    method = mended_prune() if mended else htmlrag().pruner.Pruner.prune_HTML
    out: dict[int, str | Exception] = {}
    for budget in budgets:
        try:
            out[budget] = method(ranker, simplified, blocks, ranking, tokens, budget)
        except (AssertionError, IndexError, KeyError, ValueError, AttributeError, TypeError) as error:
            out[budget] = error
    return out


def trafilatura_text(html: str) -> str:
    import trafilatura

    return trafilatura.extract(html) or ""


def readability_html(html: str) -> str:
    from readability import Document

    return Document(html).summary()
