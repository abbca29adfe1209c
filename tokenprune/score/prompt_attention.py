"""How much a causal LM, reading context and question as one prompt, looks at each unit.

The tokens of the prompt are scored by a reader, a part of the engine: the attention of one early layer
(GemFilter), or how many layers a token reaches before it is dropped (LazyLLM); it also says what they make of
a unit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar, Protocol

import numpy as np

from tokenprune.arrays import FloatArray
from tokenprune.budget import Budget
from tokenprune.errors import ModelError
from tokenprune.models.once import Once
from tokenprune.score.labeling import joined
from tokenprune.score.question_prompt import QuestionPrompt
from tokenprune.tokens import sanitize
from tokenprune.units import Units

if TYPE_CHECKING:
    from tokenprune.engine.decoder import Decoder
    from tokenprune.engine.schedule import Drop, Marks
    from tokenprune.models.causal_lm import LoadedLM

_GAP = "\n\n"
# What decides between tokens that leave at the same step weighs less than any step.
_TIE = 1e-6


class TokenReader(Protocol):
    """Scores the tokens of a prompt."""

    @property
    def room(self) -> int:
        """Positions that are needed behind the prompt."""
        ...

    def keeping(self, share: float) -> TokenReader:
        """Return the reader for a prompt of whose tokens about ``share``, 0 to 1, will be kept."""
        ...

    def scores(
        self, decoder: Decoder, ids: Sequence[int], marks: Marks, ends: frozenset[int] = frozenset()
    ) -> FloatArray:
        """Return float64 [n]; more is better, and prompts of different lengths can be compared.

        Args:
            decoder: the model.
            ids: the prompt, n tokens.
            marks: the question, and what is pinned.
            ends: tokens that end an answer, for readers that begin one.
        """
        ...

    def worth(self, tokens: FloatArray) -> float:
        """Return the score of a unit from those of its tokens, at least one."""
        ...

    def notice(self, decoder: Decoder) -> str:
        """Return what a receipt must say of the scores, or nothing."""
        ...


@dataclass(frozen=True)
class EarlyLayer:
    """Queries and keys of one layer, GemFilter's way. What is None is taken from the model's calibration.

    Args:
        layer: its number.
        question: the question's tokens are the queries; False: the last token is.
        softmax: attention probability, times the tokens of the prompt (1 is an even look); False: raw q.k.
        kernel: scores are averaged over as many neighbours.
        heads: query heads that count.
        near: see `QuestionGemFilter`.
        narrow: see `QuestionGemFilter`; what is not read on scores lowest.
    """

    layer: int | None = None
    question: bool = True
    softmax: bool | None = None
    kernel: int | None = None
    heads: tuple[int, ...] | None = None
    near: int | None = None
    narrow: float | None = None
    room: ClassVar[int] = 0

    def __post_init__(self) -> None:
        """Check ``narrow`` and ``near``.

        Raises:
            ConfigError: No share, or no position to see.
        """
        from tokenprune.engine.methods.gemfilter import check_near, narrowed

        narrowed(self.narrow, 1)
        check_near(self.near)

    def keeping(self, share: float) -> EarlyLayer:
        """Read on as much as is kept, at least."""
        return self if self.narrow is None else replace(self, narrow=max(self.narrow, share))

    def scores(
        self, decoder: Decoder, ids: Sequence[int], marks: Marks, ends: frozenset[int] = frozenset()
    ) -> FloatArray:
        """Run the layers before the chosen one."""
        from tokenprune.engine.calibration import go_by
        from tokenprune.engine.decoder import Near
        from tokenprune.engine.methods.gemfilter import narrowed, scores_at
        from tokenprune.engine.schedule import Marks

        found = go_by(decoder, self.layer)
        base = found.asked(self.layer) if self.question else found.published
        choice = base.but(self.layer, self.softmax, self.kernel, self.heads)
        asking = Marks(marks.window if self.question else (), marks.pinned)
        near = None
        if self.near is not None:
            near = Near(self.near, free_from=min(asking.window, default=len(ids) - 1))
        onward = narrowed(self.narrow, len(ids))
        said = scores_at(decoder, ids, choice.looks(), asking, near=near, onward=onward)
        scores = said.scores.double().cpu().numpy()
        even = choice.softmax and choice.around is None
        return np.asarray(scores * len(ids) if even else scores, dtype=np.float64)

    def worth(self, tokens: FloatArray) -> float:
        """Return half of the best and the mean together."""
        return _best_and_mean(tokens)

    def notice(self, decoder: Decoder) -> str:
        """Say where the layer is a guess."""
        from tokenprune.engine.calibration import known

        return known(decoder).notice if self.layer is None else ""


def _best_and_mean(tokens: FloatArray) -> float:
    """Return what a unit is worth by its tokens: see `tokenprune.engine.choice.unit_worth`."""
    return float(tokens.max() + tokens.mean()) / 2


class _BestToken:
    """A unit is worth what its best token is, and receipts have nothing to say."""

    def worth(self, tokens: FloatArray) -> float:
        """Return the best token's score."""
        return float(tokens.max())

    def notice(self, decoder: Decoder) -> str:
        """Say nothing."""
        return ""


@dataclass(frozen=True)
class LayersReached(_BestToken):
    """The share of the layers that a token goes through before LazyLLM drops it.

    Of tokens that leave together, or never, the one is ahead, by less than a millionth, that was looked at
    more at the last step it came to.

    Args:
        steps: where tokens leave and how many stay; None: the published schedule, or as ``share`` says.
        question: the question's tokens score and stay; False: the last token scores.
        calibrated: with the question, score in each layer as the model's calibration says, if it does.
        share: of the prompt's tokens that will be kept: so many reach the last layer where no steps are
            given, and a unit is worth half of its best token and the mean together. None: it is not known,
            and a unit is worth its best token, so that it reaches the last layer where a token of it does.
    """

    steps: tuple[Drop, ...] | None = None
    question: bool = False
    calibrated: bool = True
    share: float | None = None
    room: ClassVar[int] = 0

    def keeping(self, share: float) -> LayersReached:
        """Let about so many tokens reach the last layer, unless the steps were given; see ``share``."""
        return replace(self, share=share)

    def scores(
        self, decoder: Decoder, ids: Sequence[int], marks: Marks, ends: frozenset[int] = frozenset()
    ) -> FloatArray:
        """Run the prefill; tokens that reach the last layer have 1 or a trifle more."""
        import torch

        from tokenprune.engine.calibration import known
        from tokenprune.engine.reading import read_prompt
        from tokenprune.engine.schedule import Marks, TokenDropSchedule

        rules = known(decoder).calibration.rules() if self.question and self.calibrated else {}
        said = torch.zeros(len(ids), dtype=torch.float32, device=decoder.device)
        schedule = TokenDropSchedule(self._drops(), rules=rules, said=said)
        reading = read_prompt(decoder, ids, reducer=schedule, marks=marks if self.question else Marks())
        reached = np.zeros(len(ids))
        for layer in reading.sequence.layers:
            reached[layer.positions.cpu().numpy()] += 1
        rank = np.unique(said.cpu().numpy(), return_inverse=True)[1]
        return np.asarray(reached / decoder.depth + _TIE * rank / len(ids), dtype=np.float64)

    def _drops(self) -> tuple[Drop, ...]:
        from tokenprune.engine.methods.lazyllm import PUBLISHED, drops_to

        if self.steps is not None:
            return self.steps
        return PUBLISHED if self.share is None else drops_to(self.share)

    def worth(self, tokens: FloatArray) -> float:
        """Return the best token's score, or as ``share`` says."""
        return super().worth(tokens) if self.share is None else _best_and_mean(tokens)


@dataclass(frozen=True)
class LookAhead(_BestToken):
    """What the tokens attend to that the model would answer with, SpecPrefill's way; a chunk has one score.

    Args:
        lookahead: tokens that the model goes on for; 0: the last token of the prompt looks.
        kernel: attention is averaged over as many neighbours.
        chunk: tokens of one score.
    """

    lookahead: int = 8
    kernel: int = 13
    chunk: int = 32

    @property
    def room(self) -> int:
        """Positions that are needed behind the prompt."""
        return self.lookahead

    def keeping(self, share: float) -> LookAhead:
        """Read the same, whatever is kept."""
        return self

    def scores(
        self, decoder: Decoder, ids: Sequence[int], marks: Marks, ends: frozenset[int] = frozenset()
    ) -> FloatArray:
        """Run the prefill and the look-ahead."""
        from tokenprune.engine.methods.specprefill import Speculation

        how = Speculation(self.lookahead, self.kernel, self.chunk)
        found, _ = how.scores(decoder, ids, ends)
        return np.asarray(how.by_chunk(found).double().cpu().numpy(), dtype=np.float64)


@dataclass(frozen=True)
class PromptAttention:
    """Put all units and the question into one prompt and let a reader score its tokens.

    What exceeds the model's context is read in several prompts with the same question, and notes say so.

    Args:
        reader: scores tokens.
        model: a named model, a folder or a hub name.
        dtype: its number format; None is the fastest that keeps quality.
        budget: how much of the documents will be kept, for readers that go by it; adaptive: not known.
    """

    reader: TokenReader
    model: str = "smollm2-135m"
    dtype: str | None = None
    budget: Budget = field(default_factory=Budget)

    def within(self, max_tokens: int) -> PromptAttention:
        """Return a scorer whose reader goes by a budget, in tokens of the documents' own counter."""
        return replace(self, budget=Budget(max_tokens))

    def score(self, query: str, documents: Sequence[Units]) -> list[FloatArray]:
        """Score all units.

        Raises:
            ModelError: the model cannot be loaded, or is none that the engine runs.
            ConfigError: the model has no such layer.
        """
        return self.score_and_note(query, documents)[0]

    def score_and_note(
        self, query: str, documents: Sequence[Units]
    ) -> tuple[list[FloatArray], tuple[str, ...]]:
        """As `score`, and say where the prompt was cut; raises as `score` does."""
        sizes = [len(units) for units in documents]
        if not sum(sizes):
            return [np.zeros(0) for _ in sizes], ()
        lm, decoder = _load(self.model, self.dtype)
        notice = self.reader.notice(decoder)
        said = [notice] if notice else []
        parts = _parts(documents)
        windows = list(self._windows(lm, sanitize(query).strip(), parts))
        if len(windows) > 1:
            said.append(
                f"longer than the {lm.max_positions} positions of {lm.name}: read in {len(windows)} windows "
                "that do not see each other"
            )
        if sum(len(text) for window in windows for text in window.parts) < sum(map(len, parts)):
            said.append(
                f"a unit exceeds the {lm.max_positions} positions of {lm.name}: its beginning is read"
            )
        share = self._share(documents)
        scores = np.concatenate([self._read(lm, decoder, window, share) for window in windows])
        return np.split(scores, np.cumsum(sizes)[:-1]), tuple(said)

    def _windows(self, lm: LoadedLM, query: str, parts: Sequence[str]) -> Iterator[_Window]:
        """Yield consecutive units as prompts: all in one, or halves of them where they do not fit.

        Raises:
            ModelError: the question alone does not fit.
        """
        context = "".join(parts)
        prompt = QuestionPrompt.write(lm.tokenizer, context, query)
        if len(prompt.ids) + self.reader.room <= lm.max_positions:
            yield _Window(prompt, parts)
        elif len(parts) > 1:
            half = len(parts) // 2
            for some in (parts[:half], parts[half:]):
                yield from self._windows(lm, query, some)
        elif not len(context) // 2:
            ahead = f" and {self.reader.room} tokens to look ahead" if self.reader.room else ""
            raise ModelError(
                f"the question alone{ahead} {'exceed' if ahead else 'exceeds'} the {lm.max_positions} "
                f"positions of {lm.name}"
            )
        else:
            yield from self._windows(lm, query, [context[: len(context) // 2]])

    def _share(self, documents: Sequence[Units]) -> float | None:
        """Which share of the documents' tokens the budget is, 0 to 1; None: there is none."""
        total = sum(int(units.cost.sum()) for units in documents)
        limit = self.budget.limit(total)
        return None if limit is None else min(1.0, limit / max(1, total))

    def _read(self, lm: LoadedLM, decoder: Decoder, window: _Window, share: float | None) -> FloatArray:
        """Score the units of a window, of which ``share`` will be kept; float64 [n]."""
        from tokenprune.engine.schedule import Marks

        prompt = window.prompt
        edges = np.concatenate(([0], np.cumsum([len(part) for part in window.parts])))
        ranges = prompt.tokens_between(edges)
        reader = self.reader
        if share is not None:  # of the prompt stays what is no document, too
            inside = ranges[-1][1] - ranges[0][0]
            reader = reader.keeping(1 - (1 - share) * inside / len(prompt.ids))
        found = reader.scores(decoder, prompt.ids, Marks(window=prompt.window), lm.eos_ids)
        worth = [reader.worth(found[a:b]) if b > a else 0.0 for a, b in ranges]
        return np.asarray(worth, dtype=np.float64)


@dataclass(frozen=True, slots=True)
class _Window:
    """What is read at once: a prompt, and the text of each unit in it."""

    prompt: QuestionPrompt
    parts: Sequence[str]


def _parts(documents: Sequence[Units]) -> list[str]:
    """Return the text of all units, as it stands in a prompt."""
    parts: list[str] = []
    for units in documents:
        text, edges = joined(units)
        parts += [sanitize(text[a:b]) for a, b in pairwise(edges.tolist())]
        if len(units):
            parts[-1] += _GAP
    return parts


_decoders: Once[Decoder] = Once()


def _load(model: str, dtype: str | None) -> tuple[LoadedLM, Decoder]:
    """Return a model as it is on disk now, and its decoder, which is built once."""
    from tokenprune.engine.decoder import Decoder
    from tokenprune.models.causal_lm import load_causal_lm

    lm = load_causal_lm(model, dtype=dtype)
    return lm, _decoders.get(lm, lambda: Decoder(lm.model, lm.name))
