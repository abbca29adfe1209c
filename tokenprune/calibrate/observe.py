"""What every head of every layer says of a prompt, from one prefill."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tokenprune.calibrate.prompts import Item
from tokenprune.engine.decoder import Check, Decoder, go_on
from tokenprune.engine.reading import SequenceKV, read
from tokenprune.engine.rules import DotProduct, mean_and_peak
from tokenprune.engine.schedule import LayerView, Marks, Reduction
from tokenprune.errors import ConfigError
from tokenprune.score.question_prompt import QuestionPrompt

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class LayerSays:
    """Scores of the n tokens of a prompt in one layer.

    Attributes:
        heads: float16 [H, n], attention probability of the question's tokens, their mean, times n.
        peaks: float16 [H, n], the same of the token of the question that looks most.
        raw: float32 [n], raw q.k of the question's tokens.
        last: float32 [n], raw q.k of the last token of the prompt: the published rule.
    """

    heads: torch.Tensor
    peaks: torch.Tensor
    raw: torch.Tensor
    last: torch.Tensor

    def probability(self, peak: bool) -> torch.Tensor:
        """Return what the heads say, float32 [H, n]."""
        return (self.peaks if peak else self.heads).float()


@dataclass(frozen=True, slots=True)
class Observed:
    """A prompt that was read.

    Attributes:
        window: tokens of the question.
        answers: tokens of each place that answers.
        layers: layer -> its scores; all layers but the first and the last.
        size: tokens.
    """

    window: tuple[int, ...]
    answers: tuple[range, ...]
    layers: dict[int, LayerSays]
    size: int

    def need(self, scores: torch.Tensor, head: int, tail: int) -> torch.Tensor:
        """Return the least number of tokens to keep so that a whole answer is among them, int64 [c].

        Args:
            scores: float [c, n].
            head: first tokens that stay anyway, beside the window.
            tail: last tokens that stay anyway.
        """
        import torch

        free = torch.ones(self.size, dtype=torch.bool, device=scores.device)
        free[:head] = False
        free[self.size - tail :] = False
        free[list(self.window)] = False
        open_scores = scores[:, free]
        fixed = self.size - open_scores.shape[1]
        least = [
            (open_scores > scores[:, answer.start : answer.stop].amin(1, keepdim=True)).sum(1)
            for answer in self.answers
        ]
        return torch.stack(least).amin(0) + 1 + fixed


@dataclass(slots=True)
class _Recorder:
    """Looks behind every layer and drops nothing."""

    seen: dict[int, LayerSays] = field(default_factory=dict)

    def acts_after(self, layer: int, depth: int) -> bool:
        return layer > 0

    def reduce(self, view: LayerView) -> Reduction | None:
        asked = view.query[:, view.window]
        size = view.keys.shape[1]
        # Half precision ends at 65,504, and a prompt of more tokens may have all attention on one.
        mean, most = (
            (found * size).clamp(max=6e4).half() for found in mean_and_peak(asked, view.keys, view.scale)
        )
        self.seen[view.layer] = LayerSays(
            mean,
            most,
            DotProduct().score(asked, view.keys, view.scale),
            DotProduct().score(view.query[:, -1:], view.keys, view.scale),
        )
        return None


def observe(decoder: Decoder, tokenizer: Any, item: Item, limit: int, check: Check = go_on) -> Observed:
    """Read a context and its question once and keep what all layers say.

    Raises:
        ConfigError: the prompt has more than ``limit`` tokens.
    """
    prompt = QuestionPrompt.write(tokenizer, item.context, item.question)
    if len(prompt.ids) > limit:
        raise ConfigError(
            f"a prompt has {len(prompt.ids)} tokens and the model reads {limit}: use fewer tokens"
        )
    recorder = _Recorder()
    read(
        decoder,
        [SequenceKV.empty(decoder)],
        [prompt.ids],
        reducer=recorder,
        marks=[Marks(window=prompt.window)],
        keep_kv=False,
        check=check,
    )
    answers: Sequence[range] = [prompt.tokens_of(start, end) for start, end in item.answers]
    return Observed(prompt.window, tuple(answers), recorder.seen, len(prompt.ids))
