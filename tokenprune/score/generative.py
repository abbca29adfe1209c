"""HtmlRAG's generative step (arXiv 2411.02959, section 3.4): a language model writes the path of the answer.

The model reads the numbered page and the question once. The paths of all blocks form a trie; a block's score
is the log probability of its path, where at each branch only the branches of the trie compete. The published
code runs the whole page again for every branch; here the trie is read behind one prefill, all of it in a few
passes, with the same scores.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from tokenprune.arrays import BoolArray, FloatArray
from tokenprune.score.outline import outline
from tokenprune.score.path_trie import PathTrie
from tokenprune.score.question_prompt import user_message
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
# Of what a prompt may have beside its template, the most a question gets; its beginning stays.
_QUERY_SHARE = 0.5
# Of the tokens that fit by the mean of what was read before: parts of a page differ.
_SPARED = 0.05
_MARKERS = re.compile(r"(\{page\}|\{question\})")


class PathModel(Protocol):
    """What can tell how likely the branches of a trie are behind a prompt."""

    def opened(self) -> AbstractContextManager[PathModel]:
        """Return the model as it is used for one call: a connection is held open, say."""
        ...

    def room(self) -> int | None:
        """Tokens that a prompt and a path may have together; None: not known."""
        ...

    def encode(self, text: str) -> list[int]:
        """Token ids without special tokens."""
        ...

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text without special tokens."""
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

    @contextmanager
    def opened(self) -> Iterator[LocalPathModel]:
        """Nothing has to be opened."""
        yield self

    def room(self) -> int:
        """Positions of the model."""
        return self._lm().max_positions

    def encode(self, text: str) -> list[int]:
        """Token ids without special tokens."""
        ids: list[int] = self._lm().tokenizer.encode(text, add_special_tokens=False, verbose=False)
        return ids

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text without special tokens."""
        return [self.encode(text) for text in texts]

    def prompt(self, text: str) -> list[int]:
        """Apply the model's chat template, where it has one; see `user_message`."""
        return user_message(self._lm().tokenizer, text)[1]["input_ids"]

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
        with self.model.opened() as model:
            return self._asked(model, sanitize(query), documents, keeps).scores(model)

    def score_best(
        self,
        query: str,
        documents: Sequence[Units],
        choose: Callable[[int], list[BoolArray]],
        max_tokens: int,
    ) -> tuple[list[BoolArray], list[FloatArray]]:
        """Score the best units, as many as fit the model's context, where that is known.

        What does not fit is counted, not tried: of the budget goes as large a share as of the page must. A
        question has at most half of what the template leaves; its beginning stays.

        Args:
            query: the question.
            documents: segmented pages.
            choose: budget -> bool [n] per document, the units to read; fewer for less.
            max_tokens: the first budget, tokens of the documents' own counter.

        Returns:
            What was chosen in the end, and what `score_kept` returns of it.

        Raises:
            ModelError: the model cannot be asked.
        """
        query = sanitize(query)
        with self.model.opened() as model:
            room = model.room()
            query = query if room is None else self._shorter(model, query, room)
            while True:
                keeps = choose(max_tokens)
                asked = self._asked(model, query, documents, keeps)
                if room is None or asked.tokens <= room:
                    return keeps, asked.scores(model)
                alone = len(model.prompt(self._text(query, "")))
                left = max(0, room - asked.longest - alone) / max(1, len(asked.prompt) - alone)
                used = sum(u.tokens(k) for u, k in zip(documents, keeps, strict=True))
                max_tokens = int(used * min(left, 1.0) * (1 - _SPARED))

    def _asked(
        self, model: PathModel, query: str, documents: Sequence[Units], keeps: Sequence[BoolArray]
    ) -> _Asked:
        seen = outline(documents, keeps)
        sizes = [len(below) for below in seen.paths]
        paths = [path for below in seen.paths for path in below]
        if not paths:
            return _Asked([], PathTrie.build([]), sizes)
        prompt = model.prompt(self._text(query, sanitize(seen.text)))
        return _Asked(prompt, PathTrie.build(model.encode_many(paths)), sizes)

    def _shorter(self, model: PathModel, question: str, room: int) -> str:
        """Cut a question to its share of a prompt."""
        most = max(0, int(_QUERY_SHARE * (room - len(model.prompt(self._text("", ""))))))
        if len(question.encode()) <= most:  # no token is less than a byte
            return question
        while (own := len(model.encode(question))) > most:
            question = question[: len(question) * most // own]
        return question

    def _text(self, question: str, page: str) -> str:
        """Fill the template in; its markers may be part of a question or of a page as well."""
        said = {"{page}": page, "{question}": question}
        return "".join(said.get(part, part) for part in _MARKERS.split(self.template))


@dataclass(frozen=True)
class _Asked:
    """A prompt, what may follow it, and how many of the paths belong to each document."""

    prompt: list[int]
    trie: PathTrie
    sizes: list[int]

    @property
    def longest(self) -> int:
        """Tokens of the longest path."""
        return int(self.trie.depth.max())

    @property
    def tokens(self) -> int:
        """Tokens of the prompt and the longest path."""
        return len(self.prompt) + self.longest

    def scores(self, model: PathModel) -> list[FloatArray]:
        """Ask the model, unless there is nothing to ask."""
        if not self.prompt:
            return [np.zeros(0) for _ in self.sizes]
        return np.split(model.score(self.prompt, self.trie), np.cumsum(self.sizes)[:-1])
