"""How much a causal LM, reading context and question as one prompt, looks at each unit.

The tokens of the prompt are scored by a reader, a part of the engine: the attention of one early layer
(GemFilter), or how many layers a token reaches before it is dropped (LazyLLM). A unit is worth its best
token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from tokenprune.arrays import FloatArray, IntArray
from tokenprune.errors import ModelError
from tokenprune.score.labeling import joined
from tokenprune.tokens import sanitize
from tokenprune.units import Units

if TYPE_CHECKING:
    from tokenprune.engine.decoder import Decoder
    from tokenprune.engine.schedule import Drop, Marks
    from tokenprune.models.causal_lm import LoadedLM

# Whose attention from the question finds answers, and over how many neighbours it is averaged, for the named
# models; other models: this share. Of six lists of nq20 (validation fold, about 2,150 tokens) the answer is
# among the best 94, 91, 178, 321, 80, 88 tokens behind layer 18 over 31 neighbours, and among the best 931,
# 634, 1,452, 1,204, 1,095, 119 behind layer 14 over 13, which is enough for needles of one plain sentence.
LAYERS = {"smollm2-135m": 18}
LAYER_SHARE = 0.45
KERNEL = 31
# For the published rule: the first layer that finds needles.
PUBLISHED_LAYERS = {"smollm2-135m": 14}

_HEAD, _ASK, _GAP = "Context:\n", "\n\nQuestion: ", "\n\n"


class TokenReader(Protocol):
    """Scores the tokens of a prompt."""

    def scores(self, lm: LoadedLM, decoder: Decoder, ids: Sequence[int], marks: Marks) -> FloatArray:
        """Return float64 [n]; more is better, and prompts of different lengths can be compared."""
        ...


@dataclass(frozen=True)
class EarlyLayer:
    """Queries and keys of one layer, GemFilter's way.

    Args:
        layer: its number; None: the one known for the model, else a share of the depth.
        question: the question's tokens are the queries; False: the last token is.
        softmax: attention probability, times the tokens of the prompt (1 is an even look); False: raw q.k.
        kernel: scores are averaged over as many neighbours.
        near: see `QuestionGemFilter`.
    """

    layer: int | None = None
    question: bool = True
    softmax: bool = True
    kernel: int = KERNEL
    near: int | None = None

    def scores(self, lm: LoadedLM, decoder: Decoder, ids: Sequence[int], marks: Marks) -> FloatArray:
        """Run the layers before the chosen one."""
        from tokenprune.engine.decoder import Near
        from tokenprune.engine.methods.gemfilter import scores_at
        from tokenprune.engine.rules import AttentionProbability, DotProduct, Pooled

        layer = self.layer
        if layer is None:
            known = LAYERS if self.question else PUBLISHED_LAYERS
            layer = known.get(lm.name, max(1, round(LAYER_SHARE * decoder.depth)))
        rule = Pooled(AttentionProbability() if self.softmax else DotProduct(), self.kernel)
        window = (marks.window if self.question else ()) or (len(ids) - 1,)
        near = None if self.near is None else Near(self.near, free_from=min(window))
        found = scores_at(decoder, ids, layer, rule, window, near=near).scores.double().cpu().numpy()
        return np.asarray(found * len(ids) if self.softmax else found, dtype=np.float64)


@dataclass(frozen=True)
class LayersReached:
    """The share of the layers that a token goes through before LazyLLM drops it.

    Args:
        steps: where tokens leave and how many stay; None: the published schedule.
        question: the question's tokens score and stay; False: the last token scores.
    """

    steps: tuple[Drop, ...] | None = None
    question: bool = False

    def scores(self, lm: LoadedLM, decoder: Decoder, ids: Sequence[int], marks: Marks) -> FloatArray:
        """Run the prefill; tokens that reach the last layer have 1."""
        from tokenprune.engine.methods.lazyllm import PUBLISHED
        from tokenprune.engine.reading import read_prompt
        from tokenprune.engine.schedule import Marks, TokenDropSchedule

        schedule = TokenDropSchedule(PUBLISHED if self.steps is None else self.steps)
        reading = read_prompt(decoder, ids, reducer=schedule, marks=marks if self.question else Marks())
        reached = np.zeros(len(ids))
        for layer in reading.sequence.layers:
            reached[layer.positions.cpu().numpy()] += 1
        return reached / decoder.depth


@dataclass(frozen=True)
class PromptAttention:
    """Put all units and the question into one prompt and let a reader score its tokens.

    What exceeds the model's context is read in several prompts with the same question.

    Args:
        reader: scores tokens.
        model: a named model, a folder or a hub name.
        dtype: its number format; None is the fastest that keeps quality.
    """

    reader: TokenReader
    model: str = "smollm2-135m"
    dtype: str | None = None

    def score(self, query: str, documents: Sequence[Units]) -> list[FloatArray]:
        """Score all units.

        Raises:
            ModelError: the model cannot be loaded, or is none that the engine runs.
            ConfigError: the model has no such layer.
        """
        sizes = [len(units) for units in documents]
        if not sum(sizes):
            return [np.zeros(n) for n in sizes]
        parts: list[str] = []
        for units in documents:
            text, edges = joined(units)
            parts += [sanitize(text[a:b]) for a, b in pairwise(edges.tolist())]
            if len(units):
                parts[-1] += _GAP
        lm, decoder = _load(self.model, self.dtype)
        scores = self._read(lm, decoder, sanitize(query).strip(), parts)
        return np.split(scores, np.cumsum(sizes)[:-1])

    def _read(self, lm: LoadedLM, decoder: Decoder, query: str, parts: Sequence[str]) -> FloatArray:
        """Score consecutive units, float64 [n]: in one prompt, or in halves where they do not fit."""
        from tokenprune.engine.schedule import Marks

        context = "".join(parts)
        text = _prompt(lm.tokenizer, f"{_HEAD}{context}{_ASK}{query}")
        encoded = lm.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids = list(encoded["input_ids"])
        if len(ids) > lm.max_positions:
            if len(parts) > 1:
                half = len(parts) // 2
                halves = (parts[:half], parts[half:])
                return np.concatenate([self._read(lm, decoder, query, part) for part in halves])
            if not len(context) // 2:
                raise ModelError(f"the question alone exceeds the {lm.max_positions} positions of {lm.name}")
            return self._read(lm, decoder, query, [context[: len(context) // 2]])
        spans = np.asarray(encoded["offset_mapping"], dtype=np.int64).reshape(-1, 2)
        at = text.index(_HEAD) + len(_HEAD)
        asked = at + len(context) + len(_ASK)
        window = _overlapping(spans, np.asarray([asked, asked + len(query)]))[0]
        found = self.reader.scores(lm, decoder, ids, Marks(window=tuple(range(*window))))
        edges = at + np.concatenate(([0], np.cumsum([len(part) for part in parts])))
        ranges = _overlapping(spans, edges)
        return np.asarray([found[a:b].max() if b > a else 0.0 for a, b in ranges], dtype=np.float64)


def _prompt(tokenizer: Any, content: str) -> str:
    """What a user's message becomes up to where the answer begins; the text itself without a template."""
    if tokenizer.chat_template is None:
        return content + "\n"
    written: str = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )
    return written


def _overlapping(spans: IntArray, edges: IntArray) -> list[tuple[int, int]]:
    """Tokens ``[a, b)`` that share a character with each ``[edges[i], edges[i + 1])``; spans ascend."""
    first = np.searchsorted(spans[:, 1], edges[:-1], side="right")
    last = np.searchsorted(spans[:, 0], edges[1:], side="left")
    return list(zip(first.tolist(), last.tolist(), strict=True))


@lru_cache(maxsize=4)
def _load(model: str, dtype: str | None) -> tuple[LoadedLM, Decoder]:
    from tokenprune.engine.decoder import Decoder
    from tokenprune.models.causal_lm import load_causal_lm

    lm = load_causal_lm(model, dtype=dtype)
    return lm, Decoder(lm.model)
