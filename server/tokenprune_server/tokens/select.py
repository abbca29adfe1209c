"""Which tokens of a prompt's documents go on."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np

from tokenprune.arrays import BoolArray, FloatArray, IntArray
from tokenprune.document import Document
from tokenprune.receipt import PruneResult, Receipt, UnitRecords
from tokenprune.segment.sentences import sentence_starts
from tokenprune_server.protocols.base import Span
from tokenprune_server.tokens.render import ChatTemplate, Rendered, UnreadableChatError
from tokenprune_server.tokens.settings import TokenSettings

if TYPE_CHECKING:
    from tokenprune.engine.decoder import Decoder
    from tokenprune.models.causal_lm import LoadedLM
    from tokenprune.score.prompt_attention import TokenReader

_KEPT, _DROPPED = "kept", "over-budget"  # as `Receipt` has them
_WARM_UP = "The proxy keeps what answers. "


@dataclass(frozen=True, slots=True)
class Selection:
    """What stays of a prompt.

    Attributes:
        ids: tokens that go on.
        texts: of each place of the prompt, the text of what stays.
        result: the same as receipts, in characters of the documents.
        seconds: that it took.
        scores: float64 [n], by which the tokens of the prompt were chosen.
    """

    ids: list[int]
    texts: tuple[tuple[Span, str], ...]
    result: PruneResult
    seconds: float
    scores: FloatArray

    @property
    def dropped(self) -> int:
        """Tokens that do not go on."""
        return self.result.tokens_before - self.result.tokens_after


class TokenSelector:
    """Chooses tokens with a model that `warm_up` loads; thread-safe, one call at a time.

    Attributes:
        ready: it is loaded, and has run.
        fault: why the last `warm_up` failed; None while there is none to speak of.
    """

    def __init__(self, settings: TokenSettings) -> None:
        self.ready = False
        self.fault: Exception | None = None
        self._settings = settings
        self._lock, self._loading = threading.Lock(), threading.Lock()
        self._loaded: tuple[LoadedLM, Decoder, ChatTemplate] | None = None

    @property
    def name(self) -> str:
        """How the gate and receipts call it."""
        return f"tokens:{self._settings.method}"

    def load(self) -> tuple[LoadedLM, Decoder, ChatTemplate]:
        """The model that chooses, and the template of the served one.

        Raises:
            ModelError: a model or tokenizer cannot be loaded, or is none that the engine runs.
            MissingExtraError: torch or transformers is not installed.
        """
        with self._loading:
            if self._loaded is None:
                from tokenprune.engine.decoder import Decoder
                from tokenprune.models.causal_lm import load_causal_lm, load_tokenizer

                settings = self._settings
                lm = load_causal_lm(settings.model, dtype=settings.dtype)
                own = settings.tokenizer in (None, settings.model)
                tokenizer = lm.tokenizer if own else load_tokenizer(cast(str, settings.tokenizer))
                self._loaded = lm, Decoder(lm.model, lm.name), ChatTemplate(tokenizer)
        return self._loaded

    def warm_up(self) -> None:
        """Load and run once, so that no request waits for it; raises as `load` and a call do."""
        try:
            lm, _, _ = self.load()
            ids = lm.tokenizer(_WARM_UP * 20, add_special_tokens=False)["input_ids"]
            self._scores_of(list(ids), tuple(range(len(ids) - 5, len(ids))), (), 0.5)
        except Exception as error:
            self.fault = error
            raise
        self.ready, self.fault = True, None

    def template(self) -> ChatTemplate:
        """The chat template of the served model; see `load`."""
        return self.load()[2]

    def fits(self, prompt: Rendered) -> bool:
        """Whether the model that chooses can read the prompt, as far as its tokens are known."""
        return len(prompt.ids) + self._reader().room <= self.load()[0].max_positions

    def __call__(self, prompt: Rendered, query: str, count: int) -> Selection:
        """Keep the ``count`` best tokens of all documents, and everything that is no document.

        Raises:
            UnreadableChatError: the question does not stand in the prompt; the model that chooses cannot read
                all of it.
            ConfigError: the model has no such layer.
        """
        began = time.perf_counter()
        window = prompt.question(query)
        if not window:
            raise UnreadableChatError("no-question", "the question does not stand in the prompt")
        with self._lock:
            scores = self._scores(prompt, window, _free(prompt), count)
        return self._choose(prompt, scores, count, began)

    def as_text(self, prompt: Rendered, selection: Selection, count: int, *, special: bool) -> Selection:
        """The selection with its tokens counted as its text is read; chosen again where those are too many.

        Pieces that are put together make other tokens than they were.

        Args:
            prompt: of the selection.
            selection: among its tokens.
            count: of them that may stay.
            special: whether special tokens are put before the text.
        """
        began = time.perf_counter() - selection.seconds
        edges = sum(prompt.sizes()) - int(_free(prompt).sum())
        while True:
            text, places = prompt.with_texts([text for _, text in selection.texts])
            sizes = Rendered.of(text, *self.template().encode(text, special=special), places).sizes()
            over = sum(sizes) - edges - count
            if over <= 0 or count == 0:
                return dataclasses.replace(selection, result=_recounted(selection.result, sizes))
            count = max(0, count - over)
            selection = self._choose(prompt, selection.scores, count, began)

    def _choose(self, prompt: Rendered, scores: FloatArray, count: int, began: float) -> Selection:
        free = _free(prompt)
        chosen = np.zeros(len(free), dtype=bool)
        if self._settings.unit == "sentence":
            chosen = best(scores, free, by_sentence(prompt), count)
        if not chosen.any():  # not even one sentence fits
            chosen = best(scores, free, prompt.groups, count)
        chosen |= gaps(prompt, chosen, free, count)
        keep = ~free | chosen
        seconds = time.perf_counter() - began
        texts = tuple((place.span, _text(prompt, keep, place.start, place.end)) for place in prompt.places)
        ids = np.asarray(prompt.ids)[keep].tolist()
        return Selection(ids, texts, self._result(prompt, keep, scores, texts, seconds), seconds, scores)

    def _scores(self, prompt: Rendered, window: tuple[int, ...], free: BoolArray, count: int) -> FloatArray:
        """Score the tokens of the prompt, float64 [n]: a draft with other tokens scores by characters."""
        lm, _, template = self.load()
        share = min(1.0, (count + int((~free).sum())) / len(prompt.ids))
        if lm.tokenizer is template.tokenizer:
            fixed = tuple(np.flatnonzero(~free).tolist())
            return self._scores_of(prompt.ids, window, fixed, share)
        own = Rendered.of(prompt.text, *ChatTemplate(lm.tokenizer).encode(prompt.text))
        if len(own.ids) + self._reader().room > lm.max_positions:
            raise UnreadableChatError("too-long", f"the prompt exceeds the {lm.max_positions} of {lm.name}")
        asked = own.overlapping(int(prompt.begins[window[0]]), int(prompt.ends[window[-1]]))
        inside = np.logical_or.reduce(
            [(own.begins >= place.start) & (own.ends <= place.end) for place in prompt.places]
        )
        found = self._scores_of(own.ids, asked, tuple(np.flatnonzero(~inside).tolist()), share)
        return by_characters(found, own, prompt)

    def _scores_of(
        self, ids: list[int], window: tuple[int, ...], fixed: tuple[int, ...], share: float
    ) -> FloatArray:
        from tokenprune.engine.schedule import Marks

        lm, decoder, _ = self.load()
        marks = Marks(window=window, pinned=fixed)
        return self._reader().keeping(share).scores(decoder, ids, marks, lm.eos_ids)

    def _reader(self) -> TokenReader:
        """The method."""
        from tokenprune.score.prompt_attention import EarlyLayer, LayersReached, LookAhead

        settings = self._settings
        if settings.method == "lazyllm":
            return LayersReached(question=True)
        if settings.method == "specprefill":
            return LookAhead()
        if settings.method == "gemfilter":
            return EarlyLayer(settings.layer, question=False, softmax=False, kernel=5, near=settings.near)
        return EarlyLayer(settings.layer, kernel=settings.kernel, near=settings.near, narrow=settings.narrow)

    def _result(
        self,
        prompt: Rendered,
        keep: BoolArray,
        scores: FloatArray,
        texts: tuple[tuple[Span, str], ...],
        seconds: float,
    ) -> PruneResult:
        receipts, originals, documents = [], {}, []
        for index, (place, (span, text)) in enumerate(zip(prompt.places, texts, strict=True)):
            where = ".".join(str(step) for step in span.path)
            name = f"{where}#{index}"
            document = Document(span.text, kind=span.kind, id=name, title=span.title)
            mine = (prompt.ends > place.start) & (prompt.begins < place.end)
            units = _units(prompt, mine, keep, scores, place.start, place.end, self.name)
            receipts.append(Receipt(name, units, int(mine.sum()), int((mine & keep).sum())))
            originals[name] = document
            documents.append(document.with_text(text))
        before = sum(receipt.tokens_before for receipt in receipts)
        after = sum(receipt.tokens_after for receipt in receipts)
        stages = {f"score:{self.name}": seconds}
        return PruneResult(documents, receipts, before, after, seconds, stages, originals)


def _free(prompt: Rendered) -> BoolArray:
    """Which tokens may go, bool [n]."""
    return np.asarray(np.logical_or.reduce([prompt.inside_of(place) for place in prompt.places]))


def _recounted(result: PruneResult, sizes: Sequence[int]) -> PruneResult:
    """A result whose documents have so many tokens."""
    receipts = [
        dataclasses.replace(receipt, tokens_after=size)
        for receipt, size in zip(result.receipts, sizes, strict=True)
    ]
    return dataclasses.replace(result, receipts=receipts, tokens_after=sum(sizes))


def best(scores: FloatArray, free: BoolArray, groups: IntArray, count: int) -> BoolArray:
    """Which free tokens are the ``count`` best, bool [n]; whole groups, best first, the first of equals.

    A group is worth its best token. One that does not fit is passed over, so that there are never more.
    """
    keep = np.zeros(len(scores), dtype=bool)
    if not free.any():
        return keep
    first = np.flatnonzero(np.diff(groups, prepend=-1))
    value = np.maximum.reduceat(np.where(free, scores, -np.inf), first)
    size = np.add.reduceat(free.astype(np.int64), first)
    order = np.argsort(-value, kind="stable")
    order = order[size[order] > 0]
    sizes = size[order]
    if (sizes == 1).all():
        chosen = order[:count]
    else:
        taken, room = [], count
        for group, cost in zip(order.tolist(), sizes.tolist(), strict=True):
            if cost <= room:
                taken.append(group)
                room -= cost
            if not room:
                break
        chosen = np.asarray(taken, dtype=np.int64)
    picked = np.zeros(len(first), dtype=bool)
    picked[chosen] = True
    return np.asarray(picked[groups] & free)


def gaps(prompt: Rendered, chosen: BoolArray, free: BoolArray, count: int) -> BoolArray:
    """Which dropped tokens of white space stay so that kept text does not run together, bool [n].

    The space behind a sentence belongs to it: where it goes, so would that before the next one that stays.
    As many as ``count`` has room for, the first ones first.
    """
    found = np.zeros(len(chosen), dtype=bool)
    room = count - int(chosen.sum())
    begins = np.flatnonzero(chosen[1:] & ~chosen[:-1] & free[:-1])  # the token before a kept stretch
    for at in begins.tolist():
        before = prompt.text[prompt.begins[at] : prompt.ends[at]]
        after = prompt.text[prompt.begins[at + 1] : prompt.begins[at + 1] + 1]
        if room > 0 and before.isspace() and not after.isspace():
            found[at] = True
            room -= 1
    return found


def by_sentence(prompt: Rendered) -> IntArray:
    """Int64 [n], ascending: tokens of one sentence of a document have the same number."""
    edges = [
        place.start + start for place in prompt.places for start in (*sentence_starts(place.span.text), 0)
    ]
    edges += [place.end for place in prompt.places]
    first = np.flatnonzero(np.diff(prompt.groups, prepend=-1))
    # A token before whose word the space belongs to it begins in the gap between two sentences.
    last = prompt.ends[first] - 1
    return np.searchsorted(np.unique(edges), last, side="right")[prompt.groups]


def by_characters(scores: FloatArray, own: Rendered, other: Rendered) -> FloatArray:
    """Scores of tokens of one text for the tokens of another tokenizer: the best that shares a character."""
    first = np.searchsorted(own.ends, other.begins, side="right")
    last = np.searchsorted(own.begins, other.ends, side="left")
    last = np.maximum(last, first + 1)
    floor = float(scores.min()) if len(scores) else 0.0
    return np.asarray(
        [
            scores[a:b].max() if a < len(scores) else floor
            for a, b in zip(first.tolist(), last.tolist(), strict=True)
        ],
        dtype=np.float64,
    )


def _text(prompt: Rendered, keep: BoolArray, start: int, end: int) -> str:
    """What stays of the characters ``[start, end)``."""
    mine = keep & (prompt.ends > start) & (prompt.begins < end)
    begins, ends = prompt.begins[mine].clip(start, end), prompt.ends[mine].clip(start, end)
    return "".join(prompt.text[a:b] for a, b in zip(begins.tolist(), ends.tolist(), strict=True))


def _units(
    prompt: Rendered,
    mine: BoolArray,
    keep: BoolArray,
    scores: FloatArray,
    start: int,
    end: int,
    stage: str,
) -> UnitRecords:
    """Runs of tokens with the same fate as units in characters of the document ``[start, end)``."""
    at = np.flatnonzero(mine)
    fate = keep[at]
    first = np.flatnonzero(np.diff(fate.astype(np.int8), prepend=-1))
    begins = prompt.begins[at[first]].clip(start, end) - start
    kept = fate[first]
    tokens = np.diff(np.append(first, len(at)))
    return UnitRecords(
        start=begins,
        end=np.append(begins[1:], end - start).astype(np.int64),
        tokens=tokens.astype(np.int64),
        score=np.maximum.reduceat(scores[at], first),
        kept=kept,
        stage=(stage,) * len(first),
        reason=tuple(_KEPT if k else _DROPPED for k in kept.tolist()),
    )
