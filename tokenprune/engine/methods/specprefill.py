"""SpecPrefill (arXiv 2502.02789): a small model chooses the chunks of a prompt that a large one reads.

The small model, the draft, reads the prompt and goes on for some tokens. What these attend to is what the
answer needs. The draft may have another tokenizer: scores pass from its tokens to those of the large model by
the characters they share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tokenprune.engine.choice import best_units
from tokenprune.engine.decoder import Check, Decoder, Part, go_on
from tokenprune.engine.methods.gemfilter import Selected, read_selected
from tokenprune.engine.prompt import text_only
from tokenprune.engine.reading import Reading, SequenceKV, read_prompt
from tokenprune.engine.rules import head_probability
from tokenprune.engine.schedule import Marks
from tokenprune.errors import ConfigError, ModelError
from tokenprune.models.causal_lm import LoadedLM

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Speculation:
    """How a draft scores a prompt.

    Attributes:
        lookahead: Tokens that it goes on for, greedily; 0: the last token of the prompt is the query.
        kernel: Attention is averaged over as many neighbours.
        chunk: Tokens that stay or go together.
    """

    lookahead: int = 8
    kernel: int = 13
    chunk: int = 32

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: A value outside its range.
        """
        if self.lookahead < 0 or self.chunk < 1:
            raise ConfigError(
                f"lookahead is 0 or more and a chunk 1 or more tokens, not {self.lookahead}, {self.chunk}"
            )
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise ConfigError(f"a pooling kernel is an odd number from 1, not {self.kernel}")

    def scores(
        self,
        draft: Decoder,
        ids: Sequence[int],
        ends: frozenset[int] = frozenset(),
        check: Check = go_on,
    ) -> tuple[torch.Tensor, int]:
        """Return float32 [n], what the look-ahead tokens attend to, and the peak bytes of keys and values.

        Attention probability over the prompt, pooled, the most of all layers and heads, mean over the tokens.

        Args:
            draft: the small model.
            ids: the prompt in its tokens; with the look-ahead within what it can read.
            ends: tokens that end an answer; the look-ahead ends with the first.
            check: called often; raises to stop.
        """
        import torch

        size = len(ids)
        # Without a look-ahead the last token is read once more, as the query, behind the others.
        reading = read_prompt(draft, ids if self.lookahead else ids[:-1] or ids, check=check)
        total = torch.zeros(size, dtype=torch.float32, device=draft.device)
        sequence, logits = reading.sequence, reading.logits
        with torch.inference_mode():
            if not self.lookahead:
                sequence.length = size - 1
                seen, _ = self._step(draft, sequence, ids[-1], size, check)
                return seen, sequence.meter.peak
            count = 0
            while count < self.lookahead:
                count += 1
                token = int(logits.argmax())
                seen, logits = self._step(draft, sequence, token, size, check)
                total += seen
                if token in ends:
                    break
            return total / count, sequence.meter.peak

    def _step(
        self, draft: Decoder, sequence: SequenceKV, token: int, size: int, check: Check
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Read one token; return what it attends to of the first ``size``, float32 [size], and logits."""
        import torch
        from torch.nn.functional import avg_pool1d

        at = torch.tensor([sequence.length], device=draft.device)
        rotary = draft.rotary(at)
        x = draft.embed(torch.tensor([token], device=draft.device))
        seen = torch.zeros(size, dtype=torch.float32, device=draft.device)
        for number, kv in enumerate(sequence.layers):
            x, query = draft.layer(number, x, rotary, [Part(0, 1, at, kv)], check=check)
            found = head_probability(query, kv.keys[:, :size], draft.weights.scale)
            pooled = avg_pool1d(found, self.kernel, stride=1, padding=self.kernel // 2)
            seen = torch.maximum(seen, pooled.amax(0))
        sequence.length += 1
        return seen, draft.logits(x)[0]

    def by_chunk(self, scores: torch.Tensor) -> torch.Tensor:
        """Return float32 [n], for each token the mean of its chunk."""
        import torch

        number = torch.arange(len(scores), device=scores.device) // self.chunk
        chunks = int(number[-1]) + 1
        total = torch.zeros(chunks, dtype=scores.dtype, device=scores.device).index_add_(0, number, scores)
        return (total / torch.bincount(number, minlength=chunks))[number]


@dataclass(frozen=True, slots=True)
class SpecPrefill:
    """The strategy.

    Attributes:
        draft: The small model.
        keep: Tokens of the prompt that the large model reads: a count, or a share of them.
        tokenizer: Of the large model; None: it is that of the draft.
        how: How the draft scores.
        fresh: Read what stays with fresh positions; False, as published: at the positions it had.
    """

    draft: LoadedLM
    keep: int | float = 0.2
    tokenizer: Any = None
    how: Speculation = Speculation()
    fresh: bool = False

    def __post_init__(self) -> None:
        """Check what is kept.

        Raises:
            ConfigError: Nothing, or more than everything.
        """
        if self.keep <= 0 or (isinstance(self.keep, float) and self.keep > 1):
            raise ConfigError(f"keep is a count from 1 or a share in (0, 1], not {self.keep}")

    def select(self, ids: Sequence[int], marks: Marks, check: Check = go_on) -> Selected:
        """Choose the positions that stay: whole chunks; of a prompt that is short enough all.

        The last token, the window of ``marks`` and what is pinned stay and count.

        Raises:
            ConfigError: A marked position outside the prompt, visual tokens in it, or it is too long for
                the draft.
            ModelError: The large model's tokens are not what its tokenizer makes of their text.
        """
        import torch

        size = len(ids)
        marks.check(size)
        text_only(ids, f"the draft {self.draft.name}")
        count = max(1, round(self.keep * size)) if isinstance(self.keep, float) else self.keep
        if size <= count:
            return Selected(tuple(range(size)))
        scores, peak = self._scores(ids, check)
        _, fixed = marks.rows(0, size)
        pinned = torch.from_numpy(fixed).to(scores.device)
        starts = range(0, size, self.how.chunk)
        chosen = best_units(self.how.by_chunk(scores), count, pinned, starts)
        return Selected(tuple(chosen.tolist()), peak)

    def prefill(self, decoder: Decoder, ids: Sequence[int], marks: Marks, check: Check) -> Reading:
        """Select with the draft, then read what stays."""
        return read_selected(decoder, ids, self.select(ids, marks, check), check, fresh=self.fresh)

    def _scores(self, ids: Sequence[int], check: Check) -> tuple[torch.Tensor, int]:
        draft = Decoder(self.draft.model, self.draft.name)
        own = self.draft.tokenizer
        if self.tokenizer is None or self.tokenizer.get_vocab() == own.get_vocab():
            self._fits(len(ids))
            return self.how.scores(draft, ids, self.draft.eos_ids, check)
        text, spans = _spans_of(self.tokenizer, ids)
        encoded = own(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        self._fits(len(encoded["input_ids"]))
        found, peak = self.how.scores(draft, encoded["input_ids"], self.draft.eos_ids, check)
        return carried(found, encoded["offset_mapping"], spans), peak

    def _fits(self, tokens: int) -> None:
        room = self.draft.max_positions - self.how.lookahead
        if tokens > room:
            raise ConfigError(
                f"the prompt has {tokens} tokens for the draft {self.draft.name}, which can read {room} "
                "before it looks ahead: take a draft with a longer context, or cut the prompt"
            )


def carried(
    scores: torch.Tensor, spans: Sequence[tuple[int, int]], onto: Sequence[tuple[int, int]]
) -> torch.Tensor:
    """Carry scores from tokens to other tokens of the same text: the best of those that share a character.

    Args:
        scores: float [m].
        spans: characters ``(start, end)`` of the m tokens, ascending.
        onto: those of the n other tokens.

    Returns:
        float [n]; 0 for a token that shares none.
    """
    import torch

    device = scores.device
    here = torch.tensor(list(spans), device=device).view(-1, 2).T.contiguous()
    there = torch.tensor(list(onto), device=device).view(-1, 2).T.contiguous()
    first = torch.searchsorted(here[1], there[0], right=True)
    last = torch.searchsorted(here[0], there[1])
    out = torch.zeros(len(onto), dtype=scores.dtype, device=device)
    for step in range(int((last - first).clamp(min=0).max()) if len(onto) else 0):
        inside = first + step < last
        out[inside] = torch.maximum(out[inside], scores[first[inside] + step])
    return out


def _spans_of(tokenizer: Any, ids: Sequence[int]) -> tuple[str, list[tuple[int, int]]]:
    """Return the text of tokens and the characters of each."""
    text = tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    if list(encoded["input_ids"]) != list(ids):
        raise ModelError(
            "the tokens of the prompt are not those of its text, so a draft with another tokenizer cannot be "
            "asked: tokenize the prompt anew, or take a draft of the same family"
        )
    return text, encoded["offset_mapping"]
