"""The gate's view of a request: what of it was sent before, what is cached, and what pruning would gain."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from typing import Any

from tokenprune_server.answer import Expected
from tokenprune_server.cost_model import CostModel
from tokenprune_server.decide import Cost
from tokenprune_server.ledger import (
    Ledger,
    Record,
    Sent,
    block_keys,
    digest,
    place_keys,
    prompt_bytes,
    turn_keys,
)
from tokenprune_server.options import Options
from tokenprune_server.protocols.base import Body, Job, Path, Protocol, Span, Turn, replaced, value_at
from tokenprune_server.settings import ServerSettings

_MIN_TRUST = 0.25  # below it the upstream is taken for one that keeps no prefixes
_BYTES_PER_TOKEN = 4  # of what nobody has counted
_KEEP_PRIOR = 0.5
_REUSE = 0.25  # of retrieved passages: the next question brings others
_REUSE_SINGLE = 1.0  # of one document that opens a conversation: it was chosen to be asked about
_NOT_AS_ASKED = "-"  # options of a turn that went otherwise than its request asked; equal to no others
_MAX_NAME = 200  # characters of a model's name

Counts = Mapping[Path, tuple[int, int]]  # tokens of the documents of a turn, before and after


def is_explicit(options: Options) -> bool:
    """Whether a request asks for pruning itself: the gate does not stand in its way."""
    asks = options.enabled is True or options.query is not None
    return asks or bool(options.contexts) or bool(_shape(options))


def _shape(options: Options) -> str:
    """What a request says about how its documents are pruned, "" when nothing."""
    asked = (options.name, options.max_tokens, options.keep_ratio, options.output, options.code_fences)
    return "" if all(value is None for value in asked) else repr(asked)


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt of a request as it came, and how its first turns were sent before."""

    turns: tuple[Turn, ...]
    keys: tuple[bytes, ...]
    sent: tuple[Sent, ...]


@dataclass(frozen=True)
class History:
    """What the ledger knows of a request's turns; those that were sent before are sent again as they were.

    Attributes:
        body: the request.
        prompts: its prompts; none when the gate is off.
        seed: key of the model and its ``cache_salt``.
        explicit: the request asks for pruning.
        options: what it asks, as `Sent` keeps it.
        query: the query it names.
    """

    body: Body
    prompts: tuple[Prompt, ...] = ()
    seed: bytes = b""
    explicit: bool = False
    options: str = ""
    query: str | None = None

    def forgotten(self) -> "History":
        """The same request as if nothing of it had been sent."""
        return dataclasses.replace(
            self, prompts=tuple(dataclasses.replace(prompt, sent=()) for prompt in self.prompts)
        )

    def turns(self, protocol: Protocol, body: Body, at: int) -> tuple[Turn, ...]:
        """The turns of one of its prompts as they stand in ``body``."""
        return self.prompts[at].turns if body is self.body else protocol.prompts(body)[at]

    @cached_property
    def replayed(self) -> dict[Path, Sent]:
        """The turns that are sent as they were, by path."""
        return {
            turn.path: sent
            for prompt in self.prompts
            for turn, sent in zip(prompt.turns, prompt.sent, strict=False)
            if turn.path
        }

    def covers(self, span: Span) -> bool:
        """Whether a document stands in a turn that was sent before."""
        return turn_path(span.path) in self.replayed

    def open(self, jobs: Sequence[Job]) -> list[Job]:
        """The jobs with those of their documents that were not sent before."""
        left = []
        for job in jobs:
            spans = tuple(span for span in job.spans if not self.covers(span))
            left.append(job if len(spans) == len(job.spans) else dataclasses.replace(job, spans=spans))
        return left

    def replay(self, body: Body) -> Body:
        """The body with the turns that were sent before as they were sent."""
        for path, sent in self.replayed.items():
            for inner, text in sent.edits:
                body = replaced(body, (*path, *inner), text)
        return body

    @property
    def tokens(self) -> tuple[int, int]:
        """Tokens of the documents in the replayed turns: as they came, and as they go."""
        sent = self.replayed.values()
        return sum(s.before for s in sent), sum(s.after for s in sent)

    def beside(self, job: Job) -> tuple[int, int]:
        """The same for the turns of the prompt that a job is about."""
        if not self.prompts:
            return 0, 0
        sent = self.prompts[_prompt_of(self, job)].sent
        return sum(s.before for s in sent), sum(s.after for s in sent)

    @property
    def receipts(self) -> tuple[str, ...]:
        """The receipts of the replayed turns that were pruned, in their order."""
        return tuple(dict.fromkeys(s.receipt for s in self.replayed.values() if s.receipt is not None))

    @property
    def receipt(self) -> str | None:
        """The receipt of the last replayed turn that was pruned."""
        return next(reversed(self.receipts), None)


class Gate:
    """Keeps the ledger and the cost model of one upstream; thread-safe.

    Args:
        settings: ``gate`` and what the models believe at first.
        clock: seconds, monotonic.
    """

    def __init__(self, settings: ServerSettings, clock: Callable[[], float] = time.perf_counter) -> None:
        self.on = settings.gate == "on"
        self.clock = clock
        self._reuse_prior = settings.reuse_prior
        self.ledger = Ledger(settings.ledger_max_bytes, settings.ledger_ttl_s, clock)
        self.costs = CostModel(settings.prefill_tokens_per_s, settings.prune_tokens_per_s, _KEEP_PRIOR, clock)
        self.in_flight = 0  # requests that are with the upstream; changed by the event loop alone

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form of what was learned."""
        return {"gate": "on" if self.on else "off", **self.costs.to_dict(), "ledger_bytes": self.ledger.size}

    def history(self, protocol: Protocol, body: Body, options: Options) -> History:
        """Look a request up in the ledger.

        Earlier turns (those before the last answer) are always sent as they were, unless the request says how
        its documents shall be pruned and they were not pruned that way. What comes after the last answer is
        sent as it was if the whole request is a repeat: same options, same query, not long ago. What was
        pruned for a question is sent so again only where that question has been asked before.
        """
        if not self.on:
            return History(body)
        seed = digest(model_name(body), str(body.get("cache_salt")))
        shape, explicit = _shape(options), is_explicit(options)
        asked = f"{shape}{explicit}" if explicit else ""
        prompts = []
        for turns in protocol.prompts(body):
            keys = turn_keys(seed, turns)
            answered = max((n for n, turn in enumerate(turns) if turn.role == "assistant"), default=-1)
            known: list[Sent] = []
            for n, sent in enumerate(self.ledger.sent(keys)):
                same = sent.options == asked
                repeat = same and sent.query == options.query and self.ledger.recent(sent)
                if not (repeat or (n < answered and (same or not shape))):
                    break
                if sent.edits and sent.tail not in keys:
                    break
                known.append(sent)
            prompts.append(Prompt(turns, tuple(keys), tuple(known)))
        return History(body, tuple(prompts), seed, explicit, asked, options.query)

    def shared(self, history: History, job: Job) -> tuple[Span, ...]:
        """The documents that were sent lately at the same place under another question, or will be.

        The client says so itself when it asks the upstream to cache the prompt (``cache_control``).
        """
        if history.explicit or self.costs.trust(model_name(history.body)) < _MIN_TRUST:
            return ()
        question = _question(job)
        return tuple(
            span
            for span, place, marked in _places(history, job)
            if marked or self.ledger.seen(place, question)
        )

    def weigh(
        self,
        base: Body,
        history: History,
        protocol: Protocol,
        job: Job,
        prunable: Sequence[Span],
        tokens: int,
        method: str,
    ) -> "Weighing | None":
        """What pruning documents for their question would cost and save; None when the gate is off.

        Args:
            base: the body as it goes if they are not pruned.
            history: of the request.
            protocol: its adapter.
            job: the documents of the prompt.
            prunable: those of them that may be pruned.
            tokens: of these.
            method: pipeline or pruner.
        """
        if not history.prompts or not job.spans:
            return None
        at = _prompt_of(history, job)
        turns = history.turns(protocol, base, at)
        raw = prompt_bytes(turns)
        counted = sum(len(span.text.encode("utf-8", "surrogatepass")) for span in prunable)
        total = tokens + max(0, len(raw) - counted) / _BYTES_PER_TOKEN
        per_byte = total / max(len(raw), 1)
        begin = min((_offset(turns, span.path, span.start) for span in prunable), default=len(raw))
        end = max((_offset(turns, span.path, span.end) for span in prunable), default=len(raw))
        model = model_name(history.body)
        trust = self.costs.trust(model)
        cached = per_byte * self.ledger.cached_bytes(history.seed, raw)
        cost = Cost(
            prefill=self.costs.prefill(model),
            prompt_tokens=total,
            saved_tokens=tokens * (1.0 - self.costs.keep_ratio(method)),
            cached_tokens=trust * cached,
            cached_tokens_lost=trust * max(0.0, cached - per_byte * begin),
            reuse=self.ledger.reuse(_scopes(history, job, at), self._reuse_before(history, job, at)),
            reuse_tokens=trust * per_byte * end,
            prune_s=self.costs.pruning_s(method, tokens),
        )
        return Weighing(cost, at, cached, per_byte)

    def _reuse_before(self, history: History, job: Job, at: int) -> float:
        """How likely documents are taken to come again where the application is not known yet.

        A single document is only believed to do so of an upstream that is known to gain by it, as a vLLM says
        of itself: the first one of an application goes whole then, so that four questions about it cost no
        more than without the proxy; one that does not come again teaches otherwise. As long as nothing is
        known of a cache, pruning is the safer bet.
        """
        if self._reuse_prior is not None:
            return self._reuse_prior
        return (
            _REUSE_SINGLE
            if _single(history, job, at) and self.costs.keeps_prefixes(model_name(history.body))
            else _REUSE
        )

    def unweighed(self, history: History, protocol: Protocol, body: Body) -> Expected | None:
        """What to expect of a request that goes unpruned for another reason than its cost."""
        if len(history.prompts) != 1:
            return None
        raw = prompt_bytes(history.turns(protocol, body, 0))
        cached = self.ledger.cached_bytes(history.seed, raw)
        return Expected(model_name(body), len(raw) / _BYTES_PER_TOKEN, cached / _BYTES_PER_TOKEN)

    def weigh_again(
        self, weighing: "Weighing", history: History, body: Body, protocol: Protocol, saved: int
    ) -> "Weighing":
        """The same once the documents are pruned: exact, with no time left to be spent."""
        trust = self.costs.trust(model_name(history.body))
        found = self.ledger.cached_bytes(history.seed, prompt_bytes(protocol.prompts(body)[weighing.prompt]))
        cached = weighing.per_byte * found
        lost = trust * max(0.0, weighing.cached_tokens - cached)
        cost = dataclasses.replace(
            weighing.cost, saved_tokens=float(saved), cached_tokens_lost=lost, prune_s=0.0
        )
        return dataclasses.replace(weighing, cost=cost, cached_after=cached)

    def record(
        self,
        history: History,
        protocol: Protocol,
        body: Body,
        jobs: Sequence[Job] = (),
        counts: Counts | None = None,
        receipt: str | None = None,
    ) -> Record:
        """What the ledger keeps when ``body`` is sent for a request.

        Args:
            history: of the request.
            protocol: its adapter.
            body: as it goes.
            jobs: its documents that were not sent before.
            counts: tokens of the documents of its turns.
            receipt: of the request.
        """
        turns: list[tuple[bytes, Sent]] = []
        for prompt in history.prompts:
            tail = prompt.keys[-1] if prompt.keys else b""
            plain = Sent(options=history.options, query=history.query, tail=tail)  # of most turns
            for n, (turn, key) in enumerate(zip(prompt.turns, prompt.keys, strict=True)):
                if n < len(prompt.sent):
                    turns.append((key, prompt.sent[n]))
                    continue
                edits: tuple[tuple[Path, str], ...] = ()
                if body is not history.body:
                    edits = tuple(
                        (path[len(turn.path) :], new)
                        for path, text in turn.pieces
                        if path and (new := value_at(body, path)) != text
                    )
                before, after = (counts or {}).get(turn.path, (0, 0))
                sent = plain
                if edits or before:
                    own = receipt if edits else None
                    sent = dataclasses.replace(plain, edits=edits, before=before, after=after, receipt=own)
                turns.append((key, sent))
        if not jobs or not history.prompts:
            return Record(tuple(turns))
        at = _prompt_of(history, jobs[0])
        places = tuple(place for _, place, _ in _places(history, jobs[0]))
        blocks = block_keys(history.seed, prompt_bytes(history.turns(protocol, body, at)))
        identity = places[-1] if places else None
        scopes = _scopes(history, jobs[0], at)
        return Record(tuple(turns), places, _question(jobs[0]), identity, scopes, blocks)

    def untouched(self, protocol: Protocol, body: Body, options: Options) -> Record:
        """The record of a request that goes as it came, without a look at its documents."""
        if not self.on or options.contexts:
            return Record()
        history = self.history(protocol, body, options).forgotten()
        if history.explicit:  # it went as nobody asked: the next one like it is no repeat
            history = dataclasses.replace(history, options=_NOT_AS_ASKED)
        return self.record(history, protocol, body)


@dataclass(frozen=True, slots=True)
class Weighing:
    """The cost of pruning a request, and what is needed to look at it again afterwards.

    Attributes:
        cost: for `decide`.
        prompt: which of the request's prompts it is about.
        cached_tokens: of the unpruned prompt, predicted for an upstream that keeps all prefixes.
        per_byte: tokens per byte of the prompt.
        cached_after: as ``cached_tokens``, of the pruned prompt.
    """

    cost: Cost
    prompt: int
    cached_tokens: float
    per_byte: float
    cached_after: float = 0.0

    def unpruned(self, model: str) -> Expected:
        """What to expect when the request goes without pruning."""
        return Expected(model, self.cost.prompt_tokens, self.cached_tokens)

    def pruned(self, model: str, predicted: Cost, prune_s: float) -> Expected:
        """What to expect when it goes pruned; ``predicted`` is the cost before that."""
        cost = self.cost
        return Expected(
            model,
            cost.prompt_tokens - cost.saved_tokens,
            self.cached_after,
            predicted.gain_s(),
            cost.prefill.seconds(cost.prompt_tokens - cost.cached_tokens),
            prune_s,
        )


def model_name(body: Body) -> str:
    """The model a request names."""
    return str(body.get("model", ""))[:_MAX_NAME]


def turn_path(path: Path) -> Path:
    """The path of the turn that a string stands in: of its message, or of its prompt."""
    return path[:2] if len(path) > 1 else path


def _question(job: Job) -> bytes:
    return digest(b"question", job.query or "")


def _prompt_of(history: History, job: Job) -> int:
    if not job.spans:
        return 0
    wanted = turn_path(job.spans[0].path)
    found = (n for n, prompt in enumerate(history.prompts) if any(t.path == wanted for t in prompt.turns))
    return next(found, 0)


def _places(history: History, job: Job) -> list[tuple[Span, bytes, bool]]:
    """The documents of a job with the keys of their places, and whether ``cache_control`` covers them."""
    prompt = history.prompts[_prompt_of(history, job)] if history.prompts else Prompt((), (), ())
    by_turn: dict[Path, list[Span]] = {}
    for span in job.spans:
        by_turn.setdefault(turn_path(span.path), []).append(span)
    keys: dict[Span, bytes] = {}
    last = -1  # of the turns that are marked
    before = history.seed
    at = dict[Path, int]()
    for n, (turn, key) in enumerate(zip(prompt.turns, prompt.keys, strict=True)):
        if turn.path in by_turn:
            at[turn.path] = n
            keys |= place_keys(before, turn, by_turn[turn.path])
        last = n if turn.marked else last
        before = key
    return [(span, keys[span], at[turn_path(span.path)] <= last) for span in job.spans if span in keys]


def _single(history: History, job: Job, at: int) -> bool:
    """Whether one document opens a conversation."""
    begun = any(turn.role in ("assistant", "tool") for turn in history.prompts[at].turns)
    return len(job.spans) == 1 and not begun


def _scopes(history: History, job: Job, at: int) -> tuple[bytes, bytes]:
    """Keys of all applications that ask in this way, and of this one.

    It is known by what it is told before the first message. Many write the date or a user's name there, which
    makes them new ones each time: what is known of all is the prior for them.
    """
    kind = digest(b"kind", str(_single(history, job, at)), start=history.seed)
    told = takewhile(lambda turn: turn.role in ("system", "developer"), history.prompts[at].turns)
    return kind, digest(b"scope", *(text for turn in told for _, text in turn.pieces), start=kind)


def _offset(turns: Sequence[Turn], path: Path, at: int) -> int:
    """Bytes of a prompt before a character of one of its strings, about."""
    before = 0
    for turn in turns:
        for where, text in turn.pieces:
            if where == path:
                return before + len(text[:at].encode("utf-8", "surrogatepass"))
            before += len(text.encode("utf-8", "surrogatepass")) + 1
    return before
