"""HtmlRAG's generative step (arXiv 2411.02959, section 3.4): a language model writes the path of the answer.

The model reads the numbered page and the question once. The paths of all blocks form a trie; a block's score
is the log probability of its path, where at each branch only the branches of the trie compete. The published
code runs the whole page again for every branch; here the trie is read behind one prefill, all of it in a few
passes, with the same scores.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from tokenprune.arrays import BoolArray, FloatArray
from tokenprune.score.outline import outline
from tokenprune.score.path_trie import PathTrie
from tokenprune.tokens import sanitize
from tokenprune.units import Units

if TYPE_CHECKING:
    from tokenprune.models.causal_lm import LoadedLM

# The prompt that the published pruning models were trained with (HtmlRAG repository, generation code): a
# checkpoint of theirs gives its figures only with these words.
TEMPLATE = (
    "**HTML**: ```{page}```\n**Question**: **{question}**\n Your task is to identify the most relevant text "
    "piece to the given question in the HTML document. This text piece could either be a direct paraphrase "
    "to the fact, or a supporting evidence that can be used to infer the fact. The overall length of the "
    "text piece should be more than 20 words and less than 300 words. You should provide the path to the "
    "text piece in the HTML document. An example for the output is: <html1><body><div2><p>Some key "
    "information..."
)
_MARKERS = re.compile(r"(\{page\}|\{question\})")


class PathModel(Protocol):
    """What can tell how likely the branches of a trie are behind a prompt."""

    def encode(self, text: str) -> list[int]:
        """Token ids without special tokens."""
        ...

    def prompt(self, text: str) -> list[int]:
        """Token ids of a user's message up to where the answer begins."""
        ...

    def score(self, prompt: Sequence[int], trie: PathTrie) -> FloatArray:
        """Log probability of each path of the trie, float64 [p]."""
        ...


@dataclass(frozen=True)
class LocalPathModel:
    """A causal LM in this process.

    Args:
        model: a named model, a folder or a hub name.
        dtype: its number format; None is the fastest that keeps quality.
    """

    model: str = "smollm2-135m"
    dtype: str | None = None

    def encode(self, text: str) -> list[int]:
        """Token ids without special tokens."""
        ids: list[int] = self._lm().tokenizer.encode(text, add_special_tokens=False)
        return ids

    def prompt(self, text: str) -> list[int]:
        """Apply the model's chat template, where it has one."""
        tokenizer = self._lm().tokenizer
        if tokenizer.chat_template is None:
            return list(tokenizer.encode(text + "\n"))
        written = tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], add_generation_prompt=True, tokenize=False
        )
        ids: list[int] = tokenizer.encode(written, add_special_tokens=False)
        return ids

    def score(self, prompt: Sequence[int], trie: PathTrie) -> FloatArray:
        """Prefill the prompt, then read the trie behind its KV cache."""
        return score_trie(self._lm(), prompt, trie)

    def _lm(self) -> LoadedLM:
        from tokenprune.models.causal_lm import load_causal_lm

        return load_causal_lm(self.model, dtype=self.dtype)


def score_trie(lm: LoadedLM, prompt: Sequence[int], trie: PathTrie) -> FloatArray:
    """Log probability of each path behind a prompt, float64 [p]: one prefill and a few passes."""
    from tokenprune.models.tree_reading import PROMPT_END, read_tree

    nodes = trie.to_read()
    place = {0: PROMPT_END} | {int(node): i for i, node in enumerate(nodes.tolist())}
    wanted = {place[n]: trie.token[trie.children[n]].tolist() for n in trie.choices()}
    if not wanted:
        return np.zeros(len(trie.leaf))
    parent = np.asarray([place[int(trie.parent[n])] for n in nodes.tolist()], dtype=np.int64)
    logits = read_tree(lm, prompt, trie.token[nodes], parent, wanted)
    return trie.score(lambda node: logits[place[node]])


@dataclass(frozen=True)
class PathProbability:
    """Log probability of the path to each block.

    Args:
        model: reads the page and scores the paths.
        template: of the prompt, with ``{page}`` and ``{question}``.
    """

    model: PathModel
    template: str = TEMPLATE

    def score(self, query: str, documents: Sequence[Units]) -> list[FloatArray]:
        """Score all units of all documents, which must fit the model's context together."""
        return self.score_kept(query, documents, [np.ones(len(u), dtype=bool) for u in documents])

    def score_kept(
        self, query: str, documents: Sequence[Units], keeps: Sequence[BoolArray]
    ) -> list[FloatArray]:
        """Score some of the units.

        Args:
            query: the question.
            documents: segmented pages.
            keeps: bool [n] per document, the units that the model reads.

        Returns:
            float64 [k] per document, one per unit under its mask; 0 is certain, all are at most 0.

        Raises:
            ModelError: the kept units do not fit the model's context.
        """
        seen = outline(documents, keeps)
        paths = [path for below in seen.paths for path in below]
        sizes = [len(below) for below in seen.paths]
        if not paths:
            return [np.zeros(0) for _ in sizes]
        trie = PathTrie.build([self.model.encode(path) for path in paths])
        text = self._text(sanitize(query), sanitize(seen.text))
        scores = self.model.score(self.model.prompt(text), trie)
        return np.split(scores, np.cumsum(sizes)[:-1])

    def _text(self, question: str, page: str) -> str:
        """Fill the template in; its markers may be part of a question or of a page as well."""
        said = {"{page}": page, "{question}": question}
        return "".join(said.get(part, part) for part in _MARKERS.split(self.template))
